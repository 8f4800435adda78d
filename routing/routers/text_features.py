"""What the learned router reads of a text, and the classifier on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from configs.blocks.routing import OneFeatures

CHARACTERS = 20_000
"""Of a longer text the beginning is read; a domain shows there."""


def features_of(cfg: OneFeatures) -> Tfidf | Embeddings:
    """The features that a config declares. Raises ConfigError for an encoder that cannot be loaded."""
    features = {"tfidf": lambda cfg: Tfidf(), "embeddings": lambda cfg: Embeddings(cfg.path)}
    return features[cfg.kind](cfg)


class Tfidf:
    """Words and pairs of words, and runs of 3 to 5 characters within words."""

    def read(self, texts: Sequence[str]) -> Any:
        """The texts themselves, [prompts]: the vocabulary belongs to each classifier's training."""
        import numpy as np

        return np.array([text[:CHARACTERS] for text in texts], dtype=object)

    def vectorizer(self) -> Any:
        """An unfitted scikit-learn transformer of what `read` returns."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
        return make_union(words, characters)

    def classifier(self) -> Any:
        """An unfitted scikit-learn pipeline on what `read` returns."""
        from sklearn.pipeline import make_pipeline

        return make_pipeline(self.vectorizer(), _regression())


class Embeddings:
    """The mean of an encoder's last hidden states, of length 1."""

    def __init__(self, path: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        if not (path / "config.json").is_file():
            raise ConfigError(f"routing.features.path: {path}: no model folder (it holds no config.json)")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            self.model = AutoModel.from_pretrained(path).eval()
        except Exception as error:  # transformers raises many kinds
            raise ConfigError(f"routing.features.path: {path}: cannot be loaded: {error}") from None

    def read(self, texts: Sequence[str]) -> Any:
        """float32 [prompts, hidden]."""
        import numpy as np

        batches = [texts[start : start + 32] for start in range(0, len(texts), 32)]
        return np.concatenate([self._read(batch) for batch in batches])

    def _read(self, texts: Sequence[str]) -> Any:
        import torch

        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        longest = min(getattr(self.model.config, "max_position_embeddings", 512), 512)
        cut = [text[:CHARACTERS] for text in texts]
        batch = self.tokenizer(cut, return_tensors="pt", padding=True, truncation=True, max_length=longest)
        with torch.inference_mode():
            hidden_BTD = self.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
        mask_BT1 = batch["attention_mask"].unsqueeze(-1)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean_BD, dim=-1).float().numpy()

    def vectorizer(self) -> None:
        """None: what `read` returns are vectors."""

    def classifier(self) -> Any:
        """An unfitted scikit-learn pipeline on what `read` returns."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), _regression())


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
