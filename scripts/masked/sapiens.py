"""The antibody models of the `sapiens` wheel as folders that transformers loads.

    pip download --no-deps sapiens==1.0.5
    python scripts/masked/sapiens.py sapiens-1.0.5-py3-none-any.whl OUT        # writes OUT/vh and OUT/vl

Nothing of the wheel is imported or run. Its checkpoints are pickles: they are read by torch's weights-only unpickler,
which admits tensors and plain containers, and here `argparse.Namespace` besides. After the conversion the published
scores of the package's README are computed again, and the folder is only kept if they agree.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

SHA256 = "af1a8d445e9d7ab9f5f04512cf325acdfd9dd0930eb957b63ec234df1f141a8b"
ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
EXAMPLE = (  # the README's, gaps where it has stars
    "**QLV*SGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAVYYCARRDYRFDMGFDYWGQGTTVTVSS"
)
PUBLISHED = [  # probabilities of A, C, D, E at the first five places
    [0.003272, 0.004147, 0.004011, 0.004590],
    [0.012038, 0.003854, 0.006803, 0.008174],
    [0.003384, 0.003895, 0.003726, 0.004068],
    [0.004612, 0.005325, 0.004443, 0.004641],
    [0.005519, 0.003664, 0.003555, 0.005269],
]
POSITIONS = "decoder.sentence_encoder.embed_positions.weight"
NAMES = {  # fairseq's -> transformers'
    "decoder.sentence_encoder.embed_tokens": "roberta.embeddings.word_embeddings",
    "decoder.sentence_encoder.embed_positions": "roberta.embeddings.position_embeddings",
    "decoder.sentence_encoder.emb_layer_norm": "roberta.embeddings.LayerNorm",
    "decoder.sentence_encoder.layers": "roberta.encoder.layer",
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
    "decoder.lm_head.weight": "lm_head.decoder.weight",
    "decoder.lm_head.bias": "lm_head.bias",
    "decoder.lm_head": "lm_head",
}


def tokenizer(context: int) -> PreTrainedTokenizerFast:
    """One token an amino acid; the ids are fairseq's, the mask comes last."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *ACIDS, "<mask>"))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=context,
    )


def convert(pickled: bytes) -> RobertaForMaskedLM:
    with torch.serialization.safe_globals([argparse.Namespace]):
        weights = torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=True)["model"]
    config = RobertaConfig(
        vocab_size=len(SPECIAL) + len(ACIDS) + 1,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=256,
        max_position_embeddings=len(weights[POSITIONS]),  # two more than the longest row
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    model = RobertaForMaskedLM(config).eval()
    state = {}
    for name, weight in weights.items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        state[name] = weight
    state["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, config.hidden_size)  # fairseq has none
    state["lm_head.decoder.bias"] = state["lm_head.bias"]
    model.load_state_dict(state)  # strict: nothing missing, nothing over
    return model


@torch.no_grad()
def check(model: RobertaForMaskedLM, words: PreTrainedTokenizerFast) -> float:
    """The largest difference from the published probabilities."""
    ids = torch.tensor([words(EXAMPLE.replace("*", "<mask>"))["input_ids"]])
    scores = model(input_ids=ids).logits[0, 1:6].softmax(-1)[:, len(SPECIAL) : len(SPECIAL) + 4]
    return float((scores - torch.tensor(PUBLISHED)).abs().max())


def main(wheel: Path, out: Path) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel}: sha256 {found}, expected {SHA256}")
    for chain in ("vh", "vl"):
        with zipfile.ZipFile(wheel) as archive:
            model = convert(archive.read(f"sapiens/models/v1/checkpoint_{chain}.pt"))
        words = tokenizer(model.config.max_position_embeddings - 2)
        if chain == "vh":
            off = check(model, words)
            print(f"published scores of the heavy chain: largest difference {off:.1e}")
            if off > 1e-6:
                raise SystemExit("the conversion is wrong: nothing is written")
        model.save_pretrained(out / chain)
        words.save_pretrained(out / chain)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
