"""`pipeline("image-classification")` for radiographs. Research demonstration, not a medical device."""

from typing import Any

from transformers import ImageClassificationPipeline


class CxrImageClassificationPipeline(ImageClassificationPipeline):
    """Hands each input to the processor untouched: transformers' own loader makes 8-bit RGB of every file."""

    def check_model_type(self, supported_models: Any) -> None:
        """Accept the model this file travels with: it is in none of transformers' own tables."""

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:
        """Read one radiograph (path, bytes, Pillow image or array) into `pixel_values` [1, 3, H, W]."""
        return self.image_processor(images=image, return_tensors="pt").to(self.dtype)
