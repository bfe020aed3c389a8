"""How the small teachers that ship are made: what they are trained on, the training, the judged folder."""
