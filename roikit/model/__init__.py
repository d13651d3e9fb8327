"""The model; importing this package registers it with the transformers Auto classes."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from roikit.model.configuration import RoikitConfig
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor

__all__ = ["RoikitConfig", "RoikitForConditionalGeneration", "RoikitProcessor"]

AutoConfig.register("roikit", RoikitConfig)
AutoModelForImageTextToText.register(RoikitConfig, RoikitForConditionalGeneration)
AutoProcessor.register(RoikitConfig, RoikitProcessor)
