"""A classifier's feature vector in the place of its logits: whatever runs an encoder then runs it for features."""

from __future__ import annotations

from collections.abc import Collection

import torch

from tonno_core.encoding.classifier import Classifier
from tonno_core.encoding.encoder import ClassMaps, check_finite, no_features
from tonno_core.settings import CamKind


class FeatureEncoder:
    """An encoder whose logits are the D features that another's last layer weighs; it gives no maps.

    Attributes:
        classes: A name for each feature.
        stages: None, 0.
    """

    stages: int = 0

    def __init__(self, classifier: Classifier, size: int) -> None:
        """Count the features.

        Args:
            classifier: Whose features these are.
            size: S, pixels along a slice's side.

        Raises:
            TonnoError: It has no feature vector, or its features are not finite.
        """
        self._classifier = classifier
        blank = self.logits(torch.zeros(1, size, size, device=classifier.device))
        check_finite(blank)
        self.classes = tuple(f"feature {index}" for index in range(blank.shape[1]))

    def stages_with_maps(self, class_index: int, size: int) -> tuple[int, ...]:
        """List no stages.

        Args:
            class_index: Of no effect.
            size: Of no effect.

        Returns:
            None.
        """
        return ()

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """Compute the feature vectors of slices.

        Args:
            slices: ``B V U``.

        Returns:
            ``B D``.
        """
        return self._classifier.features(slices)

    def passes(self, stages: Collection[int], size: int) -> int:
        """Count how often a slice is looked at.

        Args:
            stages: Of no effect.
            size: Of no effect.

        Returns:
            1.
        """
        return 1

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind, at_once: int = 1
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Refuse: features have no maps.

        Args:
            slices: ``B V U``.
            asked: Pairs of feature and stage.
            kind: Of the maps.
            at_once: Slices in a batch.

        Returns:
            Nothing.

        Raises:
            TonnoError: Always.
        """
        raise no_features()
