"""Fixed features of images: what they are, that they depend on one image alone, and how they are kept."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cdu.data import feature_cache
from cdu.data.feature_cache import kept_features
from cdu.data.samples import Samples
from cdu.errors import CduError, DamagedFileError
from cdu.models.image_features import ImageFeatures, features, mirrored, normalised
from cdu.models.scattering import Scattering
from cdu.models.settings import FeatureSettings

SMALL = FeatureSettings(scales=1, angles=4, groups=5)
RANDOM = FeatureSettings(kind="random convolutions", sizes=(3, 5), filters=4, cells=2)


def samples(count: int = 7, colours: int = 1, side: int = 8, seed: int = 0) -> Samples:
    stream = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, colours, side, side), generator=stream, dtype=torch.uint8)
    return Samples(images, torch.arange(count) % 3, (0.5,) * colours, (0.2,) * colours)


def file_in(folder: Path) -> Path:
    (found,) = folder.glob("*.npy")
    return found


def squares(images: Tensor) -> Tensor:
    return images.flatten(1).float() ** 2


# --- features ------------------------------------------------------------------------------------------------------


def test_features_are_the_normalised_scattering(tmp_path: Path) -> None:
    given = samples(120)
    found = features(given, SMALL, tmp_path)
    pixels = given.inputs.double() / 255
    expected = normalised(Scattering(8, 8, 1, 4, torch.float64)(pixels), 5)
    assert found.inputs.shape == (120, 5 * 16)
    assert found.inputs.dtype == torch.float32
    torch.testing.assert_close(found.inputs.double(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(found.targets, given.targets)
    assert found.batch(slice(0, 3))[0].dtype == torch.float64
    torch.testing.assert_close(found.batch(slice(0, 3))[0], found.inputs[:3].double(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["scattering", "random convolutions", "both"])
def test_rows_have_a_norm_of_at_most_one(kind: str) -> None:
    settings = FeatureSettings.model_validate(SMALL.model_dump() | {"kind": kind, "sizes": (3, 4), "filters": 6})
    compute = ImageFeatures((1, 8, 8), settings, dtype=torch.float64)
    lengths = compute(samples(20).inputs).norm(dim=1)
    assert lengths.max() <= 1
    assert lengths.min() > 0.95
    assert compute(torch.full((1, 1, 8, 8), 200, dtype=torch.uint8)).norm() <= 1


def test_both_are_those_of_each() -> None:
    content = RANDOM.model_dump() | {"scales": 1, "angles": 4, "groups": 5}
    kinds = ("scattering", "random convolutions", "both")
    each = [FeatureSettings.model_validate(content | {"kind": kind}) for kind in kinds]
    first, second, both = (ImageFeatures((1, 8, 8), settings)(samples().inputs) for settings in each)
    expected = torch.cat([first, second * 2**0.5], dim=1) / 3**0.5
    torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [SMALL, RANDOM, SMALL.model_copy(update={"mirrored": True, "enlarged": 2})])
def test_an_images_features_depend_on_it_alone(settings: FeatureSettings, tmp_path: Path) -> None:
    given = samples(60)
    rows = features(given, settings, tmp_path / "all").inputs
    kept = torch.tensor([3, 55, 20])
    some = features(given.subset(kept), settings, tmp_path / "some").inputs
    torch.testing.assert_close(some, rows[kept], rtol=1e-4, atol=1e-6)


def test_mirrored_features_are_those_of_the_mirror_image() -> None:
    settings = RANDOM.model_copy(update={"mirrored": True})
    compute, images = ImageFeatures((1, 8, 8), settings, dtype=torch.float64), samples().inputs
    torch.testing.assert_close(compute(images.flip(3)), compute(images), rtol=0, atol=1e-12)
    assert not torch.allclose(ImageFeatures((1, 8, 8), RANDOM)(images.flip(3)), compute(images).float(), atol=1e-3)


def test_the_mean_with_the_mirror_image() -> None:
    images = torch.arange(6.0).view(1, 1, 2, 3)
    torch.testing.assert_close(mirrored(lambda x: x**2, images)[0, 0], torch.tensor([[2.0, 1, 2], [17, 16, 17]]))


def test_enlarged_images_repeat_pixels() -> None:
    given = samples().inputs
    large = given.repeat_interleave(2, 2).repeat_interleave(2, 3)
    settings = SMALL.model_copy(update={"enlarged": 2})
    torch.testing.assert_close(ImageFeatures((1, 8, 8), settings)(given), ImageFeatures((1, 16, 16), SMALL)(large))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_normalised_groups(groups: int) -> None:
    found = torch.rand(4, 6, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = (normalised(found, groups) * 150**0.5).unflatten(1, (groups, -1))
    torch.testing.assert_close(parts.mean(dim=2), torch.zeros(4, groups, dtype=torch.float64), rtol=0, atol=1e-12)
    expected = torch.ones(4, groups, dtype=torch.float64)
    torch.testing.assert_close(parts.var(dim=2, correction=0), expected, rtol=0, atol=1e-3)


def test_refuses_what_are_no_images(tmp_path: Path) -> None:
    rows = Samples(torch.rand(3, 8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(CduError, match=r"inputs are of type torch\.float32; fixed features are those of images"):
        features(rows, SMALL, tmp_path)
    with pytest.raises(CduError, match="5 channels cannot be normalised in 3 groups"):
        features(samples(), SMALL.model_copy(update={"groups": 3}), tmp_path)


# --- how they are kept ---------------------------------------------------------------------------------------------


def test_computed_once(tmp_path: Path) -> None:
    first = features(samples(), SMALL, tmp_path)
    path = file_in(tmp_path)
    before = path.stat().st_mtime_ns
    again = features(samples(), SMALL, tmp_path)
    assert torch.equal(first.inputs, again.inputs)
    assert path.stat().st_mtime_ns == before
    np.testing.assert_array_equal(np.load(path), first.inputs.numpy())


def test_the_name_tells_samples_and_settings_apart(tmp_path: Path) -> None:
    for given in (samples(), samples(seed=1)):
        for settings in (SMALL, SMALL.model_copy(update={"groups": 1})):
            features(given, settings, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_what_is_written_to_the_tensor_leaves_the_file(tmp_path: Path) -> None:
    kept = kept_features(samples(), squares, "squares", tmp_path)
    before = kept.inputs.clone()
    kept.inputs.zero_()
    assert torch.equal(kept_features(samples(), squares, "squares", tmp_path).inputs, before)


def test_batches_do_not_matter(tmp_path: Path) -> None:
    given = samples(2 * feature_cache.BATCH + 3)
    sizes: list[int] = []

    def compute(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return squares(images)

    kept = kept_features(given, compute, "squares", tmp_path)
    assert sizes == [feature_cache.BATCH, feature_cache.BATCH, 3]
    assert torch.equal(kept.inputs, squares(given.inputs))


def test_identities_stay(tmp_path: Path) -> None:
    given = samples()
    named = Samples(given.inputs, given.targets, ids=np.arange(7) + 100)
    found = kept_features(named, squares, "squares", tmp_path).ids
    np.testing.assert_array_equal(found, named.ids)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    kept_features(samples(), squares, "squares", tmp_path)
    path = file_in(tmp_path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"its bytes have changed; delete it to compute the features again"):
        kept_features(samples(), squares, "squares", tmp_path)
    path.unlink()
    assert torch.equal(kept_features(samples(), squares, "squares", tmp_path).inputs, squares(samples().inputs))


def test_a_shorter_file_is_found(tmp_path: Path) -> None:
    kept_features(samples(), squares, "squares", tmp_path)
    path = file_in(tmp_path)
    os.truncate(path, 100)
    with pytest.raises(DamagedFileError, match="its bytes have changed"):
        kept_features(samples(), squares, "squares", tmp_path)


def test_a_file_without_its_checksum_is_computed_again(tmp_path: Path) -> None:
    kept_features(samples(), squares, "squares", tmp_path)
    path = file_in(tmp_path)
    path.with_suffix(".sha256").unlink()
    path.write_bytes(b"half")
    assert torch.equal(kept_features(samples(), squares, "squares", tmp_path).inputs, squares(samples().inputs))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    kept_features(samples(), squares, "squares", tmp_path)
    path = file_in(tmp_path)
    path.unlink()
    left = tmp_path / f".{path.name}.12345.tmp"
    left.write_bytes(b"half")
    kept_features(samples(), squares, "squares", tmp_path)
    assert not left.exists()


def test_an_interrupted_computation_leaves_no_file(tmp_path: Path) -> None:
    def interrupted(images: Tensor) -> Tensor:
        if len(images) < feature_cache.BATCH:
            raise KeyboardInterrupt
        return squares(images)

    with pytest.raises(KeyboardInterrupt):
        kept_features(samples(feature_cache.BATCH + 1), interrupted, "squares", tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] in ([], [".lock"])


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CduError, match=r"cannot be written \(No space left on device\); make room there"):
            kept_features(samples(), squares, "squares", tmp_path)
    assert not list(tmp_path.glob("*.npy")) + list(tmp_path.glob("*.tmp"))
    assert len(kept_features(samples(), squares, "squares", tmp_path)) == 7


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(CduError, match=r"cannot be written .*; choose a folder that can be written"):
        kept_features(samples(), squares, "squares", tmp_path / "folder")


def test_refuses_features_that_are_no_numbers(tmp_path: Path) -> None:
    def bad(images: Tensor) -> Tensor:
        rows = squares(images)
        if len(rows) < feature_cache.BATCH:
            rows[1, 2] = torch.nan
        return rows

    with pytest.raises(CduError, match="features of image 51 are not finite numbers"):
        kept_features(samples(feature_cache.BATCH + 5), bad, "bad", tmp_path)
    with pytest.raises(CduError, match=r"features of 7 images are of shape \(7, 1, 8, 8\); they are to be rows"):
        kept_features(samples(), lambda images: images.float(), "maps", tmp_path)
    with pytest.raises(CduError, match="there are no samples"):
        kept_features(samples(0), squares, "none", tmp_path)
