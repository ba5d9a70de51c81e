"""A page of this machine on which a model is tried on one's own images; Gradio shows it (extra `demo`)."""
