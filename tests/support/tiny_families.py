"""A pipeline of each family with diffusers' and transformers' own classes, tiny and with random weights."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from advdmd_ray.models.families.base import packed
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import save_pipeline
from advdmd_ray.models.tiny import build_tokenizer, byte_symbols

# Imported by name: a type checker finds few of its classes exported.
diffusers: Any = importlib.import_module("diffusers")
WORDS = ("a", "red", "blue", "fox", "boat", "above", "the")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _autoencoder(channels: int) -> Any:
    """An image codec whose latents are an eighth of the image in side, as those of the real families."""
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        scaling_factor=1.5,
        shift_factor=0.06,
    )


def _clip(projection: bool) -> tuple[Any, Any]:
    tokenizer = build_tokenizer(WORDS, 16)
    marks = tokenizer.get_vocab()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=marks["<|startoftext|>"],
        eos_token_id=marks["<|endoftext|>"],
        pad_token_id=marks["<|endoftext|>"],
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config), tokenizer


def _t5(width: int) -> tuple[Any, Any]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -3.0) for word in WORDS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[])
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, use_cache=False
    )
    return T5EncoderModel(config), tokenizer


def _frame_codec() -> Any:
    """A codec of videos, whose images are videos of one frame."""
    return diffusers.AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.1, 0.9, 1.3, 0.7],
    )


def _qwen_tokenizer(*words: str) -> Any:
    symbols = {symbol: index for index, symbol in enumerate([*byte_symbols(), "<|endoftext|>"])}
    marks = ["<|im_start|>", "<|im_end|>", *words]
    return Qwen2Tokenizer(vocab=symbols, merges=[], chat_template=CHAT, additional_special_tokens=marks)


def _gemma_tokenizer() -> Any:
    """A token a letter, behind one that every text begins with."""
    symbols = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *map(chr, range(33, 127))]
    return GemmaTokenizer(vocab={symbol: index for index, symbol in enumerate(symbols)}, add_bos_token=True)


LANGUAGE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
}


def build_sd3() -> Any:
    """SD3 with all three text encoders."""
    (clip, tokenizer), (clip_2, tokenizer_2), (t5, tokenizer_3) = _clip(True), _clip(True), _t5(32)
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(4),
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=clip_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=t5,
        tokenizer_3=tokenizer_3,
    )


def build_flux() -> Any:
    """FLUX.1-dev: guidance is an input."""
    (clip, tokenizer), (t5, tokenizer_2) = _clip(False), _t5(32)
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=4, max_image_seq_len=64
        ),
        vae=_autoencoder(4),
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=tokenizer_2,
    )


def build_flux2() -> Any:
    """FLUX.2 klein, the base: guidance is classifier-free. Its text is layers 9, 18 and 27 of the language model."""
    tokenizer = _qwen_tokenizer()
    codec = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )
    codec.bn.running_mean.normal_()
    codec.bn.running_var.uniform_(0.5, 2.0)
    language: dict[str, Any] = LANGUAGE | {"num_hidden_layers": 28, "head_dim": 8, "vocab_size": len(tokenizer)}
    return diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
        ),
        vae=codec,
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**language)),
        tokenizer=tokenizer,
    )


def build_qwen_image() -> Any:
    """Qwen-Image."""
    tokenizer = _qwen_tokenizer()
    text = LANGUAGE | {"vocab_size": len(tokenizer), "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    return diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            base_image_seq_len=4,
            max_image_seq_len=64,
            shift_terminal=0.02,
        ),
        vae=_frame_codec(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
    )


def build_z_image() -> Any:
    """Z-Image."""
    tokenizer = _qwen_tokenizer()
    return diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=3,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 4, 8],
            axes_lens=[512, 64, 64],
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(4),
        text_encoder=Qwen3Model(Qwen3Config(**LANGUAGE, head_dim=8, vocab_size=len(tokenizer))),
        tokenizer=tokenizer,
    )


def build_sana() -> Any:
    """SANA, with the solver that it is published with and a codec of 8 pixels a side instead of 32."""
    tokenizer = _gemma_tokenizer()
    blocks = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")
    language: dict[str, Any] = LANGUAGE | {"head_dim": 8, "vocab_size": len(tokenizer), "max_position_embeddings": 4096}
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=8,
            qk_norm="rms_norm_across_heads",
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        vae=diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=(4, 4, 8, 8),
            decoder_block_out_channels=(4, 4, 8, 8),
            encoder_layers_per_block=(1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            encoder_qkv_multiscales=((), (), (), (5,)),
            decoder_qkv_multiscales=((), (), (), (5,)),
            scaling_factor=0.41407,
        ),
        text_encoder=Gemma2Model(Gemma2Config(**language)),
        tokenizer=tokenizer,
    )


def build_krea2() -> Any:
    """Krea 2 raw, whose text is two layers of the language model instead of twelve."""
    tokenizer = _qwen_tokenizer("assistant")  # a template's end of five tokens, as that of the real tokenizer
    text: dict[str, Any] = LANGUAGE | {"head_dim": 8, "vocab_size": len(tokenizer)}
    text["rope_scaling"] = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    vision["deepstack_visual_indexes"] = [0]
    return diffusers.Krea2Pipeline(
        transformer=diffusers.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=4,
            num_key_value_heads=1,
            intermediate_size=88,
            timestep_embed_dim=32,
            text_hidden_dim=16,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=44,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 2, 2),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=4, max_image_seq_len=64
        ),
        vae=_frame_codec(),
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
        text_encoder_select_layers=(1, 2),
    )


BUILDERS: Mapping[str, Callable[[], Any]] = {
    "sd3": build_sd3,
    "flux": build_flux,
    "flux2": build_flux2,
    "qwen_image": build_qwen_image,
    "z_image": build_z_image,
    "sana": build_sana,
    "krea2": build_krea2,
}


def with_euler(pipeline: Any, folder: Path) -> Any:
    """The pipeline with Euler's scheduler, as an exported one has; those of the other families have it anyway."""
    if not isinstance(pipeline.scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=inspect_pipeline(folder).scheduler_shift)
    return pipeline


def starting_latents(name: str, noise: torch.Tensor) -> torch.Tensor:
    """Noise as a family's pipeline takes it for `latents`."""
    if name == "flux2":
        return torch.nn.functional.pixel_unshuffle(noise, 2)
    return packed(noise) if name in {"flux", "qwen_image", "krea2"} else noise


def write_family(name: str, folder: Path) -> Path:
    """Build a family's pipeline from a fixed seed and write it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        pipeline = BUILDERS[name]()
        # An untrained network answers almost the same everywhere; larger weights make a comparison mean something.
        for parameter in pipeline.transformer.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    save_pipeline(pipeline, folder)
    return folder
