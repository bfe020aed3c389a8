"""Networks and pipelines: the only package that imports diffusers and transformers.

Nothing is imported here, so that `models.folder` can check a pipeline folder before torch is loaded.
"""
