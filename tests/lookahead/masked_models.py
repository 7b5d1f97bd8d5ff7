"""Tiny random masked models, sharpened so that their predictions differ from place to place."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from snellen.models.masked import MaskedModel, load_masked

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def tokenizer(words: str = "abcd", *, around: bool = True, mask: bool = True) -> PreTrainedTokenizerFast:
    """One token a letter, after the special ones; texts stand between <s> and </s>."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if around:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named, **({"mask_token": "<mask>"} if mask else {}))


def network(kind: str = "bert", *, vocabulary: int = 9, places: int = 24, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    common = {"vocab_size": vocabulary, "max_position_embeddings": places, "initializer_range": 0.6}
    if kind == "bert":
        return BertForMaskedLM(BertConfig(**common, **SIZE, pad_token_id=1)).eval()
    if kind == "roberta":
        return RobertaForMaskedLM(RobertaConfig(**common, **SIZE, pad_token_id=1)).eval()
    if kind == "distilbert":
        size = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 1}
        return DistilBertForMaskedLM(DistilBertConfig(**common, **size)).eval()
    config = ModernBertConfig(
        **common, **SIZE, pad_token_id=1, bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2
    )
    return ModernBertForMaskedLM(config).eval()


def masked(
    kind: str = "bert", *, words: str = "abcd", double: bool = False, around: bool = True, **options
) -> MaskedModel:
    model = network(kind, vocabulary=len(SPECIAL) + len(words), **options)
    return load_masked(model.double() if double else model, tokenizer=tokenizer(words, around=around))
