from __future__ import annotations

import pickle

import pytest

from visionkit.data.flat import Ids, Strings


def test_strings_are_a_list_in_one_buffer():
    texts = ["a.jpg", "", "ü/ß.png", "\udcff", "日本"]
    flat = Strings.of(texts)
    assert flat == texts and list(flat) == texts and len(flat) == 5
    assert flat[-1] == "日本" and flat[1:3] == ["", "ü/ß.png"]
    assert flat != texts[:4] and flat != "a.jpg"
    assert pickle.loads(pickle.dumps(flat)) == texts
    with pytest.raises(IndexError):
        flat[5]
    assert list(Strings.of([])) == []


def test_ids_keep_their_kind():
    ids = [7, "x9", 0, "7", -3, 1 << 60]
    flat = Ids.of(ids)
    assert flat == ids and [type(one) for one in flat] == [type(one) for one in ids]
    assert flat.take([3, 0, 1]) == ["7", 7, "x9"]
    assert flat[1:3] == ["x9", 0] and flat[-1] == 1 << 60
