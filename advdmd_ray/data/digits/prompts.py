"""The prompts of the digits. Nothing here imports torch, so that a run is planned in a moment."""

DIGIT_PROMPTS = tuple(
    f"a handwritten {word}" for word in ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
)
"""Prompt of each label, in label order, so that a prompt id is its label."""
DIGIT_WORDS = tuple(sorted({word for prompt in DIGIT_PROMPTS for word in prompt.split()}))
"""Every word of the prompts, sorted."""
