"""Codes of what was typed or written in a configuration, and of models that cannot be built from it."""

from __future__ import annotations

from collections.abc import Mapping

from visionkit.error_codes.code import Code

CONFIGURATION: Mapping[str, Code] = {
    "argument-form": Code(
        "Something typed is no key=value, or cannot be read as one.",
        "type key=value, and in quotes where the value holds spaces, commas or brackets: 'heads=[detection]'",
    ),
    "tool-unknown": Code(
        "There is no tool of that name.",
        "visionkit --help names the tools",
    ),
    "key-unknown": Code(
        "A key, or an argument of a part, does not exist; it would have changed nothing.",
        "correct the name; visionkit TOOL --help lists the keys",
    ),
    "key-not-taken": Code(
        "The key exists, but not here: another tool, part or data set takes it.",
        "leave the key out, or choose what takes it",
    ),
    "keys-contradict": Code(
        "Two settings cannot both hold.",
        "keep one of the two",
    ),
    "value-missing": Code(
        "A value that cannot be guessed was not given.",
        "give the key that the line names",
    ),
    "value-unfit": Code(
        "A value has the wrong type or form, or lies outside its range.",
        "give a value of the kind that the line asks for",
    ),
    "value-unresolved": Code(
        "The configuration cannot be put together, mostly since ${…} refers to a key that is not there.",
        "correct the reference, or write the value itself",
    ),
    "choice-unknown": Code(
        "A name is none of those that can be chosen.",
        "choose one of the names in the line; visionkit list tells what there is",
    ),
    "target-unknown": Code(
        "A _target_ leads to no class or function that can be imported.",
        "correct the dotted path, and see that its package is installed and imports by itself",
    ),
    "package-missing": Code(
        "An optional package is not installed.",
        "install it as the line says, or choose what does without; visionkit doctor looks at all of them",
    ),
    "installation-broken": Code(
        "Files of the toolkit itself are missing.",
        "install visionkit again; visionkit doctor looks at the rest",
    ),
    "device-missing": Code(
        "The device that was asked for is not there, or not enough of them.",
        "device=auto takes what there is; visionkit doctor shows what torch sees",
    ),
    "augmentation-unfit": Code(
        "A transform cannot be applied to images of this kind, or gives images that the network cannot take.",
        "take the transform out of augment.transforms, or start from augment=none",
    ),
}

MODEL: Mapping[str, Code] = {
    "heads-missing": Code(
        "A model without a head answers nothing, and a head must suit what is asked of it.",
        "name the heads with heads=[…]; visionkit list heads tells what there is",
    ),
    "name-unfit": Code(
        "A name cannot be used for a part, a set or a level.",
        "choose another name, of letters, digits, _ and -",
    ),
    "classes-missing": Code(
        "A head knows no classes.",
        "give data.classes=[…], or data whose labels name some",
    ),
    "levels-unfit": Code(
        "A head or a neck reads feature levels that are not there, or whose strides or channels do not suit it.",
        "choose levels that backbone and neck give (visionkit inspect_model shows them), or another backbone",
    ),
    "layers-unfit": Code(
        "The list of layers of backbone=plain cannot be built.",
        "correct the layer that the line names; visionkit inspect_model shows the size after each layer",
    ),
    "backbone-unfit": Code(
        "The backbone cannot be built as asked.",
        "choose another backbone (visionkit list backbones), or leave the setting out",
    ),
    "channels-differ": Code(
        "The images have other channels or another depth than the model, its weights or its statistics.",
        "bring data.channels, data.bit_depth, the backbone and weights into agreement",
    ),
    "labels-lacking": Code(
        "The data have not the labels that a task, a head or a setting learns from.",
        "choose a task or heads for the labels that there are, or add the labels",
    ),
}
