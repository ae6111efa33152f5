"""The code that travels with every model. It only applies: whatever is fitted is fitted in trainer/evaluation."""

from .configuration_cxr import CxrConfig
from .grey_cxr import Radiograph, RadiographError
from .image_processing_cxr import CxrImageProcessor, thumbnail
from .modeling_cxr import CxrForImageClassification, CxrOutput
from .process_cxr import ReaderProcess
from .reader_cxr import read_radiograph

CxrConfig.register_for_auto_class()
CxrForImageClassification.register_for_auto_class("AutoModelForImageClassification")
CxrImageProcessor.register_for_auto_class()

__all__ = ["CxrConfig", "CxrForImageClassification", "CxrImageProcessor", "CxrOutput", "Radiograph", "RadiographError"]
__all__ += ["ReaderProcess", "read_radiograph", "thumbnail"]
