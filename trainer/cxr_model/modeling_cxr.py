"""A chest X-ray classifier: backbone, pooling, head, heat map. Research demonstration, not a medical device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_cxr import CxrConfig
from .folding_cxr import fold_batch_norm
from .lesions_cxr import LesionHead
from .lungs_cxr import LungViews, lungs_are_plausible, resample, whole_film
from .weights_cxr import check_amount, check_loaded

if TYPE_CHECKING:  # transformers saves the files that are named in imports: so this one goes along
    from .pipeline_cxr import CxrImageClassificationPipeline  # noqa: F401


@dataclass
class CxrOutput(ModelOutput):
    """What one forward pass gives."""

    loss: Tensor | None = None  # mean over the batch of w_y x cross-entropy, where labels were given
    logits: Tensor | None = None  # [B, C]; softmax gives the scores. Two labels: [0, z], so that softmax = sigmoid(z)
    familiarity: Tensor | None = None  # [B], or None where none was fitted
    feature_map: Tensor | None = None  # [B, D, h, w], the backbone's last feature map of the film
    maps: tuple[Tensor, ...] | None = None  # where there are views, [B, V, D, h, w] of each stride that is pooled
    lungs: Tensor | None = None  # where there are views, the lung fields [B, 128, 128] in 0..1
    box: Tensor | None = None  # and the box around them [B, 4]: left, top, right, bottom in 0..1
    lesions: Tensor | None = None  # where lesions are looked for, the logit of one in each cell of the box [B, n, n]


class CxrForImageClassification(PreTrainedModel):
    """Backbone -> pooling -> head; `AutoModelForImageClassification` loads it with `trust_remote_code=True`."""

    config_class = CxrConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    fold_batch_norm = fold_batch_norm

    def __init__(self, config: CxrConfig) -> None:
        if (channels := getattr(config.backbone_config, "num_channels", 3)) != 3:
            raise ValueError(f"the backbone takes images of {channels} channels, this model gives it 3")
        config.id2label = {int(index): label for index, label in config.id2label.items()}
        if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
            problem = f"num_labels={config.num_labels}, problem_type={config.problem_type}"
            raise ValueError(f"{problem}: this model tells 2 or more labels apart, one of which holds for an image")
        super().__init__(config)
        own = {"impl": "pipeline_cxr.CxrImageClassificationPipeline", "pt": ["AutoModelForImageClassification"]}
        config.custom_pipelines = {"image-classification": own}
        if (config.operating_point or {}).get("label") not in config.id2label.values():  # none, or of other labels
            config.operating_point = None
        if config.class_weights and len(config.class_weights) != config.num_labels:
            config.class_weights = None
        self.update_statistics = False  # whether training moves the statistics of unfrozen BatchNorm layers
        self.backbone = AutoModel.from_config(config.backbone_config, dtype=torch.get_default_dtype())
        for name in config.drop_modules or []:
            self.backbone.set_submodule(name, nn.Identity())
        for module in self.backbone.modules():
            # transformers' MobileNet-V2 sets .997, TensorFlow's decay: in torch that keeps only the last batch.
            if isinstance(module, nn.BatchNorm2d) and (module.momentum or 0) > 0.5:
                module.momentum = 0.1
        self.views = LungViews(config.views, config.level) if config.views else None
        if (config.lesions or {}).get("label") not in config.id2label.values():
            config.lesions = None
        self.lesions = LesionHead(config.feature_size, config.lesions["cells"]) if config.lesions else None
        size = (config.pooled_size or config.feature_size) * len(config.views or [""])
        self.projection = None
        if config.features == "probabilities":
            self.projection = nn.Linear(size, config.projection_size)
            size = config.projection_size
        layers: list[nn.Module] = [nn.Dropout(config.input_dropout)]
        for width in config.hidden_sizes or []:
            layers += [nn.Linear(size, width), nn.ReLU()]
            layers += [nn.BatchNorm1d(width)] if config.batch_norm else []
            layers += [nn.Dropout(config.dropout)]
            size = width
        self.head = nn.Sequential(*layers)
        self.classifier = nn.Linear(size, 1 if config.num_labels == 2 else config.num_labels)
        if config.familiarity:
            self.add_familiarity(config.familiarity)
        self.post_init()

    def add_familiarity(self, settings: dict[str, Any]) -> None:
        """Make room for the mean [D], directions [k, D] and spreads [k] of the training radiographs' textures."""
        self.config.familiarity = settings
        count, size = settings["components"], self.config.feature_size
        self.register_buffer("familiarity_mean", torch.zeros(size))
        self.register_buffer("familiarity_axes", torch.zeros(count, size, dtype=torch.float16))
        self.register_buffer("familiarity_spread", torch.zeros(count))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a run or a Hub repository, safetensors alone. OSError: weights that are missing, left over, not finite
        or of other sizes, unless `ignore_mismatched_sizes=True` asks for a new head.
        """
        name, new_head = str(pretrained_model_name_or_path or ""), bool(kwargs.get("ignore_mismatched_sizes"))
        wants_info = kwargs.pop("output_loading_info", False)
        if name and not new_head:
            check_amount(cls, name, **kwargs)
        kwargs |= {"output_loading_info": True, "use_safetensors": True}
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        check_loaded(model, info, name, new_head)
        return (model, info) if wants_info else model

    def train(self, mode: bool = True) -> "CxrForImageClassification":
        """Training mode for what trains: of a backbone with frozen parts, BatchNorm that moves; else views, too."""
        super().train(mode)
        frozen = any(not parameter.requires_grad for parameter in self.backbone.parameters())
        for part in (self.backbone, self.views):
            if part is not None:
                part.train(mode and not frozen)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                trains = not frozen or any(parameter.requires_grad for parameter in module.parameters())
                module.train(mode and trains and self.update_statistics)
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model answers, in the order of its outputs."""
        return tuple(self.config.id2label[index] for index in range(self.config.num_labels))

    def classify(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps [B, D, h, w], or [B, V, D, h, w] of views -> logits [B, C]."""
        logits = self.classifier(self.embed(maps))
        return torch.cat([torch.zeros_like(logits), logits], dim=-1) if logits.shape[-1] == 1 else logits

    def embed(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps, as `classify` takes them -> what the last layer is given, [B, F]."""
        hidden = self.pool(maps)
        return self.head(hidden if self.projection is None else self.projection(hidden).softmax(dim=-1))

    def pool(self, maps: Sequence[Tensor]) -> Tensor:
        """What the head is given of feature maps [B, D, h, w] or [B, V, D, h, w]: [B, F], view after view."""
        pools = {
            "avg": lambda each: each.mean(dim=(-2, -1)),
            "max": lambda each: each.amax(dim=(-2, -1)),
            "std": lambda each: each.float().std(dim=(-2, -1), correction=0).to(each.dtype),
        }
        return torch.cat([pools[name](each) for each in maps for name in self.config.pooling.split("+")], -1).flatten(1)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        lungs_of: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Classify `pixel_values` [B, 3, H, W] as the processor makes them; `labels` [B] indices give a loss too.

        `lungs_of`: pixel values of the same size in which the lungs are looked for instead (for images with hidden
        parts); a model without views does not look.
        """
        pixel_values = pixel_values.to(self.dtype)
        of_views: dict[str, Any] = {}
        if self.views is None:
            feature_map = self.backbone(pixel_values).last_hidden_state
            maps: tuple[Tensor, ...] = (feature_map,)
        else:
            views, lungs, box = self._show(self.views, pixel_values, lungs_of)
            maps = self._maps_of(views)
            feature_map = maps[-1][:, 0]
            of_views = {"maps": maps, "lungs": lungs, "box": box}
        logits = self.classify(maps)
        if self.lesions is not None:
            of_lungs = maps[-1][:, self.config.views.index("lungs")]
            of_views["lesions"] = self.lesions(of_lungs, lungs[:, None], box)
            score = self.lesions.film_score(of_views["lesions"])
            logits = logits + F.one_hot(self._lesion_index, logits.shape[1]) * score[:, None]
        loss = None if labels is None else self.sample_losses(logits, labels).mean()
        familiarity = self.familiarity(feature_map)
        output = CxrOutput(loss=loss, logits=logits, familiarity=familiarity, feature_map=feature_map, **of_views)
        return output.to_tuple() if return_dict is False else output

    def _show(self, show: LungViews, pixel_values: Tensor, lungs_of: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel values [B, 3, H, W] -> those of the views [B, V, 3, H, W], lung fields [B, 128, 128], box [B, 4]."""
        normalisation = (self.config.view_mean or [0.5] * 3, self.config.view_std or [0.5] * 3)
        like = {"device": self.device, "dtype": self.dtype}
        mean, std = (torch.tensor(values, **like)[:, None, None] for values in normalisation)
        grey = (pixel_values[:, :1] * std[0] + mean[0]).contiguous()
        looked_at = grey if lungs_of is None else lungs_of[:, :1].to(self.dtype) * std[0] + mean[0]
        with torch.autocast(self.device.type, enabled=False):  # where the lungs are is the same in every precision
            views, lungs, box = show(grey, looked_at)
        return (views[:, :, None] - mean) / std, lungs[:, 0], box

    def _maps_of(self, views: Tensor) -> tuple[Tensor, ...]:
        """Views [B, V, 3, H, W] -> the backbone's last map at each stride that is pooled, [B, V, D, h, w]."""
        pixels = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        hidden = self.backbone(pixels, output_hidden_states=bool(self.config.strides))
        last = maps_by_stride(hidden, views.shape[-1])
        maps = [last[stride] for stride in self.config.strides or [max(last)]]
        return tuple(each.unflatten(0, views.shape[:2]) for each in maps)

    def familiarity(self, feature_map: Tensor) -> Tensor | None:
        """How much images resemble the training radiographs, [B] in 0..1, few of those below .5; None: not fitted."""
        if not self.config.familiarity:
            return None
        return 1 / (1 + self.mahalanobis_distance(self.texture(feature_map)) / self.config.familiarity["threshold"])

    @staticmethod
    def texture(feature_map: Tensor) -> Tensor:
        """How much each feature of a map [B, D, h, w] varies over the image, without contrast: unit vectors [B, D]."""
        return F.normalize(feature_map.detach().float().std(dim=(2, 3), correction=0), dim=1)

    def mahalanobis_distance(self, texture: Tensor) -> Tensor:
        """Squared Mahalanobis distance [B] of textures [B, D] under a probabilistic PCA (Tipping and Bishop 1999)."""
        settings = self.config.familiarity
        apart = texture.float() - self.familiarity_mean.float()
        inside = apart @ self.familiarity_axes.float().T
        outside = (apart.square().sum(dim=1) - inside.square().sum(dim=1)).clamp_min(0) / settings["outside"]
        return (inside / self.familiarity_spread.float()).square().sum(dim=1) + settings["components"] / 2 * outside

    def sample_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """w_y x cross-entropy of each image, [B], in float32; `labels` [B] indices, or [B, C] probabilities."""
        weights = self.config.class_weights
        weight = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=logits.device)
        return F.cross_entropy(logits.float(), labels, weight=weight, reduction="none")

    def heatmap(self, output: CxrOutput, class_index: int | Tensor, lesions: bool = True) -> Tensor:
        """Grad-CAM (arXiv:1610.02391) of logit c minus the logsumexp of the others, from an output in eval mode; of the
        label whose lesions are looked for, the logits of its cells above the lowest, unless `lesions` is False.

        `class_index`: one for all images, or [B]. Gives float32 [B, h, w] in 0..1; Grad-CAM's is zero where nothing
        speaks for the label.
        """
        with torch.inference_mode(False), torch.enable_grad():
            maps = output["maps"] if self.views is not None else [output["feature_map"]]
            maps = [each.detach().clone() for each in maps]
            feature_map = maps[-1].requires_grad_()
            logits = self.classify(maps).float()
            index = torch.as_tensor(class_index, device=logits.device).expand(len(logits)).unsqueeze(1)
            others = logits.scatter(1, index, float("-inf")).logsumexp(dim=1)
            target = logits.gather(1, index).squeeze(1) - others
            (gradient,) = torch.autograd.grad(target.sum(), feature_map)
        if self.views is None:
            weights = gradient.float().mean(dim=(2, 3), keepdim=True)
            cam = (weights * feature_map.detach().float()).sum(dim=1).relu()
        else:
            box = output["box"]
            cam = self._on_film((gradient * feature_map.detach()).float().sum(dim=2), box, self.config.views).relu()
            if self.lesions is not None and lesions:
                above = output["lesions"].float() - output["lesions"].float().amin(dim=(1, 2), keepdim=True)
                cells = self._on_film(above[:, None], box, ["lungs"])
                cam = torch.where((index == self._lesion_index)[:, :, None], cells, cam)
        return cam / cam.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)

    @property
    def _lesion_index(self) -> Tensor:
        return torch.tensor(self.labels.index(self.config.lesions["label"]), device=self.device)

    @staticmethod
    def _on_film(views: Tensor, box: Tensor, names: Sequence[str]) -> Tensor:
        """Maps of the views of these names [B, V, h, w] where they lie on the film, summed: [B, 2h, 2w]."""
        whole = whole_film(box)
        low, size = box[:, :2], (box[:, 2:] - box[:, :2]).clamp_min(1e-3)
        outside = torch.cat([-low / size, (1 - low) / size], dim=1)  # the film's corners, as the crop measures
        placed = [
            resample(views[:, index : index + 1], whole if name == "film" else outside, 2 * views.shape[-1])
            for index, name in enumerate(names)
        ]
        return torch.cat(placed, dim=1).sum(dim=1)

    def decide(self, output: CxrOutput) -> list[dict[str, Any]]:
        """Scores and a decision for each image of a batch: {"label", "scores", "decision", "familiarity", "warnings"}.

        `warnings` holds "unfamiliar" where the image is unlike the training radiographs, "no-lungs" where a model that
        looks for lungs finds none that can be: whether it is shown is up to the caller. The decision follows
        `config.operating_point`; without one it is the argmax (for two labels, a threshold of .5).
        """
        scores, rows = output["logits"].float().softmax(dim=-1).tolist(), []
        familiarity = [None] * len(scores) if output.familiarity is None else output.familiarity.tolist()
        lungs = [True] * len(scores) if output.lungs is None else lungs_are_plausible(output.lungs).tolist()
        for row, known, plausible in zip(scores, familiarity, lungs, strict=True):
            doubts = {"unfamiliar": known is not None and known < 0.5, "no-lungs": not plausible}
            warnings = [code for code in doubts if doubts[code]]
            rows.append({**self._decision(row), "familiarity": known, "warnings": warnings})
        return rows

    def _decision(self, row: list[float]) -> dict[str, Any]:
        scores = {self.config.id2label[index]: score for index, score in enumerate(row)}
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)
        if self.config.operating_point is None and len(ranked) > 2:
            decision = {"name": "argmax", "label": ranked[0], "threshold": None, "positive": True}
            return {"label": ranked[0], "scores": scores, "decision": decision}
        point = self.config.operating_point or {"name": "argmax", "label": self.config.id2label[1], "threshold": 0.5}
        positive = scores[point["label"]] >= point["threshold"]
        label = point["label"] if positive else next(label for label in ranked if label != point["label"])
        return {"label": label, "scores": scores, "decision": {**point, "positive": positive}}


def maps_by_stride(output: Any, side: int) -> dict[int, Tensor]:
    """The last feature map of a backbone at each stride, for images of `side` pixels: {stride: [B, D, h, w]}."""
    maps = [each for each in getattr(output, "hidden_states", None) or () if each.ndim == 4]
    return {side // each.shape[-1]: each for each in [*maps, output.last_hidden_state]}
