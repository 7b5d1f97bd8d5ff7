"""Power sampling by particles against blockwise Metropolis-Hastings, for as many kept samples, in one run.

    python benchmarks/power_sampling.py                    # pocket, 16 samples of 64 tokens
    python benchmarks/power_sampling.py --samples 32 --length 128

The peer is the sampler of *Reasoning with Sampling* (arXiv 2510.14901, algorithm 1) on transformers' `generate` with
its KV cache: the text grows in blocks from p^α normalised token by token; after each block a number of steps, in which
the text from a random place on is drawn anew and accepted by the ratio of p^α over proposal. As strong as we could
make it: all chains run as one batch that shares the random place, which is independent of their states, so that
nothing is padded; log-probabilities come from the logits of `generate`. Blocks and steps are fewer than the paper's
(16 and 10), which favours the peer.

Before a time is printed both are held against enumeration, on a tiny model whose continuations can all be listed.
Beside the time stands the mean of log p of the samples: both should find texts of about the same probability.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from snellen.lookahead.power_sampling import power_sample
from snellen.models.bundled import pocket_folder

PROMPT = "It was the best of times, it was the worst of times,"


def extended(model: PreTrainedModel, prefix: torch.Tensor, new: int, alpha: float) -> tuple[torch.Tensor, ...]:
    """`new` tokens from p^α, token by token: tokens, log p and log-proposal of each, [chains, new]."""
    out = model.generate(
        prefix,
        attention_mask=torch.ones_like(prefix),
        do_sample=True,
        temperature=1 / alpha,
        top_k=0,
        top_p=1.0,
        min_new_tokens=new,
        max_new_tokens=new,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[:, prefix.shape[1] :]
    logits = torch.stack(out.logits, dim=1).float()
    log_p, log_q = ((power * logits).log_softmax(-1).gather(-1, tokens[..., None])[..., 0] for power in (1.0, alpha))
    return tokens, log_p, log_q


def metropolis_hastings(
    model: PreTrainedModel, prompt: torch.Tensor, *, chains: int, length: int, blocks: int, steps: int, alpha: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """One sample of each chain: tokens and log p, [chains, length], and the share of steps that were accepted."""
    prefix = prompt.expand(chains, -1)
    tokens, log_p, log_q = prompt.new_empty(chains, 0), torch.empty(chains, 0), torch.empty(chains, 0)
    accepted = 0.0
    for _ in range(blocks):
        grown = extended(model, torch.cat([prefix, tokens], dim=1), length // blocks, alpha)
        tokens, log_p, log_q = (torch.cat(pair, dim=1) for pair in zip((tokens, log_p, log_q), grown, strict=True))
        for _ in range(steps):
            place = int(torch.randint(tokens.shape[1], (1,)))
            fresh = extended(model, torch.cat([prefix, tokens[:, :place]], dim=1), tokens.shape[1] - place, alpha)
            gain = alpha * (fresh[1] - log_p[:, place:]).sum(1) - (fresh[2] - log_q[:, place:]).sum(1)
            take = (torch.rand(chains).log() < gain)[:, None]
            accepted += float(take.float().mean()) / (blocks * steps)
            for old, new in zip((tokens, log_p, log_q), fresh, strict=True):
                old[:, place:] = torch.where(take, new, old[:, place:])
    return tokens, log_p, accepted


def tiny() -> GPT2LMHeadModel:
    torch.manual_seed(7)
    config = GPT2Config(vocab_size=4, n_embd=16, n_layer=2, n_head=2, n_positions=16, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(8)
    return model


def check(alpha: float = 2.0, length: int = 4) -> dict[str, float]:
    """Total variation between each sampler and the enumerated p^α; raises where it is not noise."""
    model, prompt = tiny(), torch.tensor([[1, 3, 0]])
    every = torch.tensor(list(itertools.product(range(4), repeat=length)))
    log_p = model(torch.cat([prompt.expand(len(every), -1), every], dim=1)).logits[:, 2:-1].double().log_softmax(-1)
    target = (alpha * log_p.gather(-1, every[..., None]).sum((1, 2))).softmax(0)
    digits = 4 ** torch.arange(length - 1, -1, -1)
    chains = 2000
    tokens, *_ = metropolis_hastings(model, prompt, chains=chains, length=length, blocks=2, steps=12, alpha=alpha)
    found = power_sample(model, prompt, alpha=alpha, particles=chains, max_new_tokens=length, memory="4GB")
    shares = {
        "Metropolis-Hastings": torch.bincount((tokens * digits).sum(1), minlength=len(every)) / chains,
        "particles": torch.zeros(len(every)).scatter_add_(
            0, (found.tokens[0] * digits).sum(1), found.log_weights[0].exp()
        ),
    }
    # Of so many independent draws: E |share − q| is about √(2 q (1 − q) / (π n)).
    noise = float(0.5 * (2 * target * (1 - target) / (math.pi * chains)).sqrt().sum())
    worst = {name: round(float(0.5 * (share - target).abs().sum()), 3) for name, share in shares.items()}
    if max(worst.values()) > 3 * noise:
        raise SystemExit(f"total variation from the enumerated target {worst}, noise {noise:.3f}: no time is reported")
    return {**worst, "noise": round(noise, 3)}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="Metropolis-Hastings steps a block")
    parser.add_argument("--alpha", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    print(json.dumps({"total variation from enumeration": check()}), flush=True)
    model = AutoModelForCausalLM.from_pretrained(pocket_folder(), dtype="float32").eval().requires_grad_(False)
    prompt = AutoTokenizer.from_pretrained(pocket_folder())(PROMPT, return_tensors="pt").input_ids
    power_sample(model, prompt, particles=2, max_new_tokens=arguments.length)  # with the preflight, done once
    taken: dict[str, list[float]] = {"particles": [], "Metropolis-Hastings": []}
    log_probs: dict[str, list[float]] = {"particles": [], "Metropolis-Hastings": []}
    sizes, accepted = [], []
    for seed in range(arguments.repeats):
        start = time.perf_counter()
        found = power_sample(
            model,
            prompt,
            alpha=arguments.alpha,
            particles=arguments.samples,
            max_new_tokens=arguments.length,
            seed=seed,
            memory="4GB",
        )
        taken["particles"].append(time.perf_counter() - start)
        log_probs["particles"].append(float((found.log_probs[0].sum(-1) * found.log_weights[0].exp()).sum()))
        sizes.append(float(found.log_weights[0].exp().square().sum()) ** -1)
        start = time.perf_counter()
        _, log_p, share = metropolis_hastings(
            model,
            prompt,
            chains=arguments.samples,
            length=arguments.length,
            blocks=arguments.blocks,
            steps=arguments.steps,
            alpha=arguments.alpha,
        )
        taken["Metropolis-Hastings"].append(time.perf_counter() - start)
        log_probs["Metropolis-Hastings"].append(float(log_p.sum(-1).mean()))
        accepted.append(share)
    median = {name: sorted(times)[(len(times) - 1) // 2] for name, times in taken.items()}
    print(
        json.dumps(
            {
                "samples": arguments.samples,
                "tokens": arguments.length,
                "blocks": arguments.blocks,
                "steps": arguments.steps,
                "alpha": arguments.alpha,
                "particles, s": round(median["particles"], 2),
                "Metropolis-Hastings, s": round(median["Metropolis-Hastings"], 2),
                "times faster": round(median["Metropolis-Hastings"] / median["particles"], 1),
                "mean log p": {name: round(sum(x) / len(x), 1) for name, x in log_probs.items()},
                "effective size at the end": round(sum(sizes) / len(sizes), 1),
                "accepted": round(sum(accepted) / len(accepted), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
