"""The linear codec of patches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.models.codec import PatchCodec


def pictures(count: int = 300, channels: int = 3, side: int = 8, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, so that a few components hold most of them."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, side, side, generator=generator)
    return 0.3 + 0.5 * noise + 2 * torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)


def encoded(codec: PatchCodec, images: torch.Tensor) -> torch.Tensor:
    return codec.encode(images, return_dict=False)[0].mode()


def decoded(codec: PatchCodec, latents: torch.Tensor) -> torch.Tensor:
    return codec.decode(latents, return_dict=False)[0]


@given(st.sampled_from([1, 2, 4]), st.floats(0, 1), st.sampled_from([1, 3]))
def test_with_all_components_nothing_is_lost(patch: int, whitening: float, channels: int) -> None:
    images = pictures(channels=channels)
    codec = PatchCodec.fit(images, patch=patch, components=channels * patch**2, whitening=whitening)
    other = pictures(5, channels, seed=1)
    assert encoded(codec, other).shape == (5, channels * patch**2, 8 // patch, 8 // patch)
    assert torch.allclose(decoded(codec, encoded(codec, other)), other, atol=1e-4)


@given(st.integers(1, 12), st.floats(0, 1))
def test_the_basis_is_orthonormal_and_the_latents_have_mean_square_1(components: int, whitening: float) -> None:
    images = pictures()
    codec = PatchCodec.fit(images, patch=2, components=components, whitening=whitening)
    assert torch.allclose(codec.basis.T @ codec.basis, torch.eye(components), atol=1e-5)
    latents = encoded(codec, images)
    assert float(latents.square().mean()) == pytest.approx(1.0, abs=1e-3)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3


@given(st.integers(1, 11), st.integers(0, 1000))
def test_on_the_kept_subspace_encoding_undoes_decoding(components: int, seed: int) -> None:
    codec = PatchCodec.fit(pictures(), patch=2, components=components, whitening=0.5)
    latents = torch.randn(3, components, 4, 4, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(encoded(codec, decoded(codec, latents)), latents, atol=1e-4)


def test_a_round_trip_loses_less_the_more_components_are_kept() -> None:
    images = pictures()
    losses = []
    for components in (2, 4, 8, 12):
        codec = PatchCodec.fit(images, patch=2, components=components, whitening=0.5)
        back = decoded(codec, encoded(codec, images))
        assert torch.allclose(decoded(codec, encoded(codec, back)), back, atol=1e-4)
        losses.append(float((back - images).square().mean()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-8 < losses[-2]


def test_whitening_evens_out_the_components() -> None:
    images = pictures()

    def deviations(whitening: float) -> torch.Tensor:
        codec = PatchCodec.fit(images, patch=2, components=6, whitening=whitening)
        return encoded(codec, images).std(dim=(0, 2, 3))

    none, half, full = (deviations(whitening) for whitening in (0.0, 0.5, 1.0))
    assert (none.diff() < 0).all()
    assert torch.allclose(full, torch.ones(6), atol=0.01)
    assert torch.allclose(half / half[0], (none / none[0]).sqrt(), atol=0.01)


def test_a_patch_becomes_the_latent_in_its_place() -> None:
    codec = PatchCodec.fit(pictures(), patch=4, components=48, whitening=0.5)
    images = pictures(2, seed=5)
    changed = images.clone()
    changed[:, :, 4:, :4] += 1.0
    moved = (encoded(codec, changed) - encoded(codec, images)).abs().amax(dim=1) > 1e-3
    assert moved.tolist() == [[[False, False], [True, False]]] * 2


def test_fits_to_the_same_images_agree() -> None:
    first, again = (PatchCodec.fit(pictures(), patch=2, components=5, whitening=0.5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    strongest = first.basis.gather(0, first.basis.abs().argmax(dim=0, keepdim=True))
    assert (strongest > 0).all()
    assert not any(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.parametrize(("patch", "components"), [(3, 4), (2, 0), (2, 13), (6, 4), (0, 1)])
def test_a_bad_patch_or_number_of_components_is_refused(patch: int, components: int) -> None:
    with pytest.raises(ValueError, match="need a patch of 1, 2, 4"):
        PatchCodec.fit(pictures(4), patch=patch, components=components, whitening=0.5)


def test_components_that_do_not_vary_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 5 components"):
        PatchCodec.fit(pictures(channels=1).repeat(1, 3, 1, 1), patch=2, components=5, whitening=0.5)
    with pytest.raises(ValueError, match="fewer than 1 components"):
        PatchCodec.fit(torch.zeros(4, 3, 8, 8), patch=2, components=1, whitening=0.0)


def test_a_saved_codec_codes_as_before(tmp_path: Path) -> None:
    codec = PatchCodec.fit(pictures(), patch=4, components=7, whitening=0.5)
    codec.save_pretrained(str(tmp_path))
    loaded: Any = PatchCodec.from_pretrained(str(tmp_path))
    assert (loaded.patch, loaded.config.latent_channels, len(loaded.config.block_out_channels)) == (4, 7, 3)
    images = pictures(3, seed=9)
    assert torch.equal(loaded.encode(images).latent_dist.sample(), encoded(codec, images))
    assert torch.equal(loaded.decode(encoded(codec, images)).sample, decoded(codec, encoded(codec, images)))
