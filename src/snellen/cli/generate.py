"""`snellen generate`: text with lookahead, and for comparison by the ordinary decodings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from snellen.cli.outputs import check_outputs, free_name
from snellen.cli.terminal import put_json, say
from snellen.errors import InputError
from snellen.kinds import LEAST_TEMPERATURE

# What each method understands, with its defaults; None: no default of ours.
METHODS: dict[str, dict[str, Any]] = {
    "amplified": {
        "width": 4, "horizon": 4, "alpha": 2.0, "weight": 0.2, "mix": "linear", "temperature": 1.0, "top_p": 1.0,
        "seed": 0,
    },
    "greedy": {},
    "beam": {"width": 4},
    "nucleus": {"temperature": 1.0, "top_p": 0.95, "seed": 0},
    "sample": {"temperature": 1.0, "seed": 0},
    "power": {"alpha": 4.0, "particles": 16, "seed": 0},
}  # fmt: skip


def _says(text: str, option: str) -> Parameter:
    """Help with the methods that know the option, and their defaults."""
    known = {name: defaults[option] for name, defaults in METHODS.items() if option in defaults}
    if len(set(known.values())) == 1:
        value = next(iter(known.values()))
        shown = str(value) if len(known) > 1 else f"{value}; method {next(iter(known))} only"
    else:
        shown = ", ".join(f"{name} {value}" for name, value in known.items())
    return Parameter(help=f"{text} [default: {shown}]")


def generate_texts(
    model: str = "pocket",
    /,
    *,
    prompt: list[str] | None = None,
    prompt_file: Path | None = None,
    method: Literal["amplified", "greedy", "beam", "nucleus", "sample", "power"] = "amplified",
    width: Annotated[int | None, _says("Branches that the search keeps (W).", "width")] = None,
    horizon: Annotated[int | None, _says("How many tokens deep it looks (D).", "horizon")] = None,
    alpha: Annotated[float | None, _says("Exponent of a completion's probability; inf: the best.", "alpha")] = None,
    weight: Annotated[float | None, _says("Weight of the lookahead in the mix, 0 to 1.", "weight")] = None,
    mix: Annotated[
        Literal["linear", "geometric"] | None, _says("How model and lookahead are mixed: linear, geometric.", "mix")
    ] = None,
    particles: Annotated[int | None, _says("Continuations that compete.", "particles")] = None,
    max_new_tokens: int = 64,
    temperature: Annotated[
        float | None, _says("Of sampling; 0 takes the most probable token (amplified).", "temperature")
    ] = None,
    top_p: Annotated[float | None, _says("Sample from the most probable tokens with this mass.", "top_p")] = None,
    seed: Annotated[int | None, _says("Of what is drawn.", "seed")] = None,
    stop: list[str] | None = None,
    count: int = 1,
    generation_config: bool = False,
    show_tree: bool = False,
    tree: Path | None = None,
    overwrite: bool = False,
    json: bool = False,
    quiet: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    bos: Literal["auto", "always", "never"] = "auto",
    trust_remote_code: bool = False,
) -> None:
    """Write on from a prompt, looking ahead: each token from the amplified distribution (method amplified).

    greedy, beam, nucleus and sample are transformers' own; power samples whole texts from p(text)^alpha by particles.

    Parameters
    ----------
    model
        Hub id, folder or GGUF file of a causal language model; `pocket` ships with Snellen.
    prompt
        What to write on from, one or more. The two characters \\n in it mean a line break, \\t a tab.
        Without any prompt the text begins with the model's first token (BOS).
    prompt_file
        A file that is one more prompt, as it stands.
    method
        How tokens are chosen. Amplified: where the model's folder has a lookahead.json (a model that was trained to be
        used with lookahead), its width, horizon, alpha, weight and mix are the defaults.
    max_new_tokens
        How many tokens to write at most.
    stop
        Texts that end what is written; they are not part of it. (\\n as in a prompt.)
    count
        Texts for each prompt.
    generation_config
        Follow the model's generation_config.json (repetition penalty, banned words, temperature, …); otherwise only
        its special tokens count, and a method is what its name says. What you give yourself goes first. Not with power.
    show_tree
        Print the tree that the first token was chosen from, and write a page with all of them (see --tree). Method
        amplified only.
    tree
        The page: one HTML file. With --show-tree by default generate.html, or generate-2.html and so on where there is
        one already.
    overwrite
        Replace the file that --tree names, if it is there.
    json
        Print texts, tokens and log-probabilities as JSON.
    quiet
        No progress.
    dtype
        Number format of the model.
    device
        cpu, cuda, cuda:1, mps; by default the best there is.
    revision
        Branch, tag or commit of a hub model.
    tokenizer
        Hub id or folder of the tokenizer, where the model's own place has none.
    bos
        First token (BOS) in front of a prompt: auto, as the tokenizer does.
    trust_remote_code
        Run code that the model brings.
    """
    given = {
        "width": width, "horizon": horizon, "alpha": alpha, "weight": weight, "mix": mix, "particles": particles,
        "temperature": temperature, "top_p": top_p, "seed": seed,
    }  # fmt: skip
    settings = _settings(method, given, count=count, max_new_tokens=max_new_tokens)
    if (show_tree or tree is not None) and method != "amplified":
        raise InputError(f"show-tree: method {method} has no trees; use --method amplified")
    if generation_config and method == "power":
        raise InputError("generation-config: method power weighs whole texts and cannot follow one; leave it out")
    check_outputs({"tree": tree}, overwrite=overwrite)
    page = tree or (free_name(Path("generate.html")) if show_tree else None)
    check_outputs({"tree": page}, overwrite=overwrite)
    if page is not None:
        from snellen.models.sources import check_file_apart

        check_file_apart(model, page, name="tree")
    prompts = _prompts(prompt, prompt_file)
    stops = [unescaped(text) for text in stop or []]
    if "" in stops:
        raise InputError("stop '': an empty text would end everything at once; leave it out")
    from snellen import cli

    console = cli._begin(quiet=quiet)
    console.say(f"loading {model} …")
    from snellen.cli.trees import show_tree as print_tree
    from snellen.cli.trees import write_page
    from snellen.cli.writing import Job, Speaker, as_json, write
    from snellen.lookahead import deployed
    from snellen.lookahead.generation_config import held
    from snellen.subject import load

    found = deployed.read(model) if method == "amplified" else None
    settings_from = None
    if found is not None:
        own = asdict(found.settings)
        kept = [name for name in own if given[name] is None]
        settings |= {name: own[name] for name in kept}
        settings_from = {"file": str(Path(model) / deployed.NAME), "settings": kept}
        changed = [name for name in own if name not in kept]
        told = f"; not its {', '.join(changed)}, which you gave" if changed else ""
        console.say(f"lookahead as {settings_from['file']} has it: {found}{told}")
    _check_method(method, settings)
    subject = load(
        model,
        tokenizer=tokenizer,
        revision=revision,
        dtype=dtype,
        device=device or "auto",
        bos="auto" if bos == "auto" else bos == "always",
        trust_remote_code=trust_remote_code,
    )
    follow: dict[str, Any] = {}
    if own_settings := held(subject.model):
        follow, told = _followed(own_settings, method, settings, given, wanted=generation_config)
        console.say(told)
    job = Job(
        subject=subject,
        method=method,
        settings=settings,
        max_new_tokens=max_new_tokens,
        stops=stops,
        details=page is not None or json,
        settings_from=settings_from,
        follow=follow,
    )
    job.check(prompts)
    if own_bos := job.own_bos(prompts):
        console.say(f"{own_bos} of {len(prompts)} prompts begin with the model's first token (BOS), which is read once")
    many = len(prompts) * count > 1
    texts = []
    for number, text in enumerate(write(job, prompts, count, speak=None if json else Speaker(many=many)), start=1):
        texts.append(text)
        if many and not quiet and json:
            console.say(f"{number} of {len(prompts) * count} texts")
    console.close()
    if json:
        put_json(as_json(job, texts), indent=1)
    elif show_tree:
        print_tree(job, texts[0])
    if page is not None:
        write_page(page, job, texts)
        say(f"page    {page}", error=json)


def _check_method(method: str, settings: dict[str, Any]) -> None:
    """What the search or the sampler would refuse, before a model is loaded. Raises InputError."""
    if method == "amplified":
        from snellen.lookahead.amplification import Amplification

        Amplification(**{name: settings[name] for name in ("width", "horizon", "alpha", "weight", "mix")})
    elif method == "power":
        from snellen.lookahead.sequential import Settings

        Settings(alpha=settings["alpha"])


def _followed(
    own: dict[str, Any], method: str, settings: dict[str, Any], given: dict[str, Any], *, wanted: bool
) -> tuple[dict[str, Any], str]:
    """What of a model's generation config is followed, and what is to be said of it.

    Where it has a setting that the method has too, it is the method's default (in `settings`).
    """
    from snellen.lookahead.generation_config import followed, told

    file = "generation_config.json of the model"
    if not wanted:
        return {}, f"{file} put aside: {told(own)} (--generation-config follows it)"
    samples = method not in ("greedy", "beam") and given["temperature"] != 0
    follow = followed(own, method=method, samples=samples, beams=method == "beam")
    without = [name for name in own if name not in follow]  # a method that does not sample has no use for top-k
    for name, option in (("temperature", "temperature"), ("top_p", "top_p"), ("num_beams", "width")):
        if name in follow and option in settings:
            value = follow.pop(name)
            if given[option] is None:
                settings[option] = value
            else:
                without.append(name)
    used = told({name: value for name, value in own.items() if name not in without})
    but = f"; not its {', '.join(without)}, which you gave or method {method} has no use for" if without else ""
    return follow, f"{file} is followed: {used or 'nothing of it'}{but}"


def unescaped(text: str) -> str:
    """The two characters backslash and n as a line break (\\t: a tab): shells pass them as they are."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t", "\\": "\\"}[match[1]], text)


def _prompts(prompt: Sequence[str] | None, file: Path | None) -> list[str]:
    prompts = [unescaped(text) for text in prompt or []]
    if file is not None:
        from snellen.results.files import read_bytes

        try:
            prompts.append(read_bytes(file).decode("utf-8"))
        except InputError as error:  # a pipe, a device
            raise InputError(f"prompt-file: {error}: name a file") from error
        except OSError as error:
            raise InputError(f"prompt-file {str(file)!r}: {error.strerror}: name a file that can be read") from error
        except UnicodeDecodeError as error:
            raise InputError(f"prompt-file {str(file)!r}: no UTF-8 at byte {error.start}: convert it first") from error
    from snellen.texts.read import check_characters

    for text in prompts:
        check_characters(text, "prompt")
    return prompts or [""]


def _settings(method: str, given: dict[str, Any], *, count: int, max_new_tokens: int) -> dict[str, Any]:
    """The method's settings; what it does not know is refused, as is what no method can use."""
    known = METHODS[method]
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        option = name.replace("_", "-")
        if name not in known:
            others = [other for other, settings in METHODS.items() if name in settings]
            raise InputError(f"{option} {value}: no option of method {method}; it is one of {', '.join(others)}")
        if name in ("width", "horizon", "particles") and value < 1:
            raise InputError(f"{option} {value}: must be a whole number of at least 1")
        low = 0 < value < LEAST_TEMPERATURE if name == "temperature" else False
        if name == "temperature" and (low or not 0 <= value < float("inf") or (value == 0 and method != "amplified")):
            raise InputError(f"temperature {value}: must be above 0 (for the most probable token: --method greedy)")
        if name == "top_p" and not 0 < value <= 1:
            raise InputError(f"top-p {value}: must lie above 0 and at most at 1")
        if name == "seed" and not 0 <= value < 2**63:
            raise InputError(f"seed {value}: must be a whole number from 0 to 2^63 − 1")
    settings = {**known, **given}
    if method == "amplified" and settings["temperature"] == 0 and settings["top_p"] != 1:
        raise InputError("top-p: has no effect at temperature 0; leave it out")
    for name, number in (("count", count), ("max-new-tokens", max_new_tokens)):
        if number < 1:
            raise InputError(f"{name} {number}: must be a whole number of at least 1")
    one = method == "greedy" or (method == "amplified" and settings["temperature"] == 0)
    if one and count > 1:
        raise InputError(f"count {count}: the most probable tokens make one text; sample, or leave it out")
    for name, least in (("beam", "width"), ("power", "particles")):
        if method == name and count > settings[least]:
            raise InputError(f"count {count}: method {name} has {settings[least]} texts; raise --{least}")
    return settings
