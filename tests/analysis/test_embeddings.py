"""The embedding file comes back as it was written, and whatever is not one says so."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file
from small_embeddings import make_embeddings

from stepjepa.analysis.embeddings import evenly_spaced, load, save
from stepjepa.records import UserError


def layered():
    plain = make_embeddings()
    return dataclasses.replace(
        plain,
        context_layers={0: plain.context * 2, 3: plain.context},
        target_layers={0: plain.target * 2, 3: plain.target},
        state_layers={0: plain.states * 2, 3: plain.states},
    )


def assert_equal(one, other):
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        elif field.name.endswith("_layers"):
            assert list(left) == list(right)
            for layer in left:
                np.testing.assert_array_equal(left[layer], right[layer])
        else:
            assert left == right


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_file_comes_back_as_it_was(tmp_path, suffix):
    embeddings = layered()
    path = tmp_path / "new folder" / f"e{suffix}"
    save(embeddings, path)
    assert_equal(load(path), embeddings)
    again = tmp_path / f"again{suffix}"
    save(embeddings, again)
    assert again.read_bytes() == path.read_bytes()
    assert [each.name for each in path.parent.iterdir()] == [path.name]  # nothing temporary is left


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"e{suffix}"
    save(make_embeddings(), path)
    whole = path.read_bytes()
    for share in (0, 0.3, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=r"cut short"):
            load(path)


def test_foreign_files_are_refused(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "weights.safetensors")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    for name in ("weights.safetensors", "arrays.npz"):
        with pytest.raises(UserError, match=rf"{name}.*not one that `stepjepa embed`"):
            load(tmp_path / name)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("one.npz", "text.npz", "text.safetensors"):
        with pytest.raises(UserError, match=rf"{name}: not a"):
            load(tmp_path / name)
    with pytest.raises(UserError, match=r"no such embedding file; `stepjepa embed"):
        load(tmp_path / "absent.npz")
    with pytest.raises(UserError, match=r"ends in \.safetensors or \.npz"):
        load(tmp_path / "e.pt")


def test_a_pickle_is_never_read(tmp_path):
    path = tmp_path / "pickled.npz"
    with path.open("wb") as file:
        np.savez(file, stepjepa=np.array({"format": 1}, dtype=object))
    with pytest.raises(UserError, match="allow_pickle"):
        load(path)


def test_other_formats_and_missing_arrays_are_named(tmp_path):
    path = tmp_path / "e.safetensors"
    save_file({"context": np.zeros((1, 2))}, path, metadata={"stepjepa": json.dumps({"format": 2})})
    with pytest.raises(UserError, match="written in format 2, this version reads 1"):
        load(path)
    save_file({"context": np.zeros((1, 2))}, path, metadata={"stepjepa": json.dumps({"format": 1})})
    with pytest.raises(UserError, match="no context_step, correct, ids"):
        load(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_failed_save_leaves_the_earlier_file(tmp_path, suffix):
    path = tmp_path / f"e{suffix}"
    save(make_embeddings(), path)
    before = path.read_bytes()
    broken = make_embeddings(context=np.array([object()]))
    with pytest.raises((SafetensorError, ValueError)):
        save(broken, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save(make_embeddings(), tmp_path / "file" / f"e{suffix}")


def test_take_keeps_rows_and_labels_together():
    whole = layered()
    part = whole.take(np.array([1, 4, 11]))
    assert part.ids == ["id1", "id4", "id11"]
    assert part.steps == [whole.steps[i] for i in (1, 4, 11)]
    assert sorted(set(part.pair_example)) == [0, 1, 2]
    rows = np.flatnonzero(np.isin(whole.pair_example, [1, 4, 11]))
    np.testing.assert_array_equal(part.context, whole.context[rows])
    np.testing.assert_array_equal(part.target_layers[0], whole.target_layers[0][rows])
    np.testing.assert_array_equal(part.correct, whole.correct[[1, 4, 11]])
    states = np.flatnonzero(np.isin(whole.state_example, [1, 4, 11]))
    np.testing.assert_array_equal(part.value, whole.value[states])
    np.testing.assert_array_equal(part.state_layers[0], whole.state_layers[0][states])


def test_rows_of_steps_and_layers():
    embeddings = layered()
    rows = embeddings.state_rows(embeddings.pair_example, embeddings.target_step)
    np.testing.assert_array_equal(embeddings.state_example[rows], embeddings.pair_example)
    np.testing.assert_array_equal(embeddings.state_step[rows], embeddings.target_step)
    assert embeddings.state_rows(np.array([0, 0]), np.array([-1, 99])).tolist() == [-1, -1]
    first = embeddings.at_layer(0)
    np.testing.assert_array_equal(first.context, embeddings.context * 2)
    np.testing.assert_array_equal(first.states, embeddings.states * 2)
    assert first.ids == embeddings.ids
    with pytest.raises(UserError, match=r"layer 2 is not in these embeddings \(stored: 0, 3\)"):
        embeddings.at_layer(2)


def test_evenly_spaced():
    assert evenly_spaced(5, None).tolist() == [0, 1, 2, 3, 4]
    assert evenly_spaced(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert evenly_spaced(100, 4).tolist() == [0, 33, 66, 99]
