"""From training to use: what is fitted, what is saved, and what `snellen generate` makes of it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import snellen
from snellen.cli import main
from snellen.errors import InputError
from snellen.lookahead import beam, deployed
from snellen.lookahead.amplification import Amplification
from snellen.organisms.tables import exact, tempered
from snellen.training.amplifiers import Beam, Learned, Particles
from snellen.training.deployment import beam_for, fitted, save_amplified
from snellen.training.monitoring.held_out import HeldOut
from tests import tiny
from tests.training.watched import HORIZON, LANGUAGE, amplified_text, own_text

BEAM = Beam(width=6, horizon=HORIZON, alpha=2.0)
SETTINGS = Amplification(width=3, horizon=2, alpha=1.5, weight=0.3, mix="geometric")


@pytest.fixture(scope="module")
def model():
    return exact(LANGUAGE)


def held_out(text, model):
    return HeldOut.of(text, model, horizon=HORIZON, tokens=None)


def mixed_loss(model, rows, how):
    """The slow twin: the loss of `Lookahead`, as it generates, at every token of the rows."""
    losses = []
    ahead = snellen.Lookahead(model, **vars(how))
    for row in rows:
        for place in range(1, len(row)):
            probs = ahead.next_token(torch.tensor([row[:place]]))[0]
            losses.append(-math.log(probs[row[place]]))
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def found(model):
    return fitted(model, held_out(amplified_text(16)[0], model), BEAM)


def test_what_is_deployed_predicts_the_text_as_it_was_fitted_to(found, model):
    how = found.settings
    assert how.weight > 0.1
    assert (how.width, how.horizon) == (6, HORIZON)
    assert found.fitted["low"] > 0
    assert found.fitted["tokens"] == 16 * 39
    over = found.fitted["over_model"]
    assert over["value"] == pytest.approx(found.fitted["naive_loss"] - found.fitted["amplified_loss"])
    assert 0 < over["low"] < over["value"]
    # Text that nothing was fitted on: the very settings, through the code that generates, gain about as much.
    new, _ = amplified_text(3, seed=9)
    gain = mixed_loss(model, new, replace(how, weight=0.0)) - mixed_loss(model, new, how)
    assert over["low"] < gain < over["high"] + 0.05
    # No other weight would have done much better on the text of the fit: the fit is on the mix that is generated from.
    rows = amplified_text(16)[0][:1]
    at = [mixed_loss(model, rows, replace(how, weight=w)) for w in (0.1 * how.weight, how.weight)]
    assert at[1] < at[0]


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_where_lookahead_adds_nothing_the_weight_is_zero(exponent, model):
    """Also where the model is too flat, so that any mix is better than the model alone, by sharpening it."""
    flat = tempered(model, exponent)
    found = fitted(flat, held_out(own_text(16), flat), BEAM)
    assert found.settings == Amplification(width=6, horizon=HORIZON, alpha=2.0, weight=0.0, mix="linear")
    assert "so this is the model alone" in str(found)
    assert (found.fitted["over_model"]["low"] > 0.02) == (exponent < 1)
    assert found.fitted["low"] <= 0


def test_which_beam_is_deployed():
    assert beam_for(BEAM) is BEAM
    assert beam_for(Particles(particles=16, horizon=3)) == Beam(width=16, horizon=3)
    assert beam_for(Learned(width=5, horizon=4)) == Beam(width=5, horizon=4)
    with pytest.raises(InputError, match="a horizon of 1 is sharpening"):
        beam_for(Beam(horizon=1))


@pytest.mark.parametrize("alpha", [0.0, 2.0, math.inf])
def test_the_file_is_read_as_it_was_written(alpha, tmp_path):
    one = deployed.Deployed(settings=replace(SETTINGS, mix="linear", alpha=alpha), fitted={"gain": 0.5}, snellen="1")
    path = one.write(tmp_path)
    assert deployed.read(tmp_path) == one
    assert json.loads(path.read_text())["alpha"] == ("inf" if math.isinf(alpha) else alpha)


def test_no_file_is_no_lookahead(tmp_path):
    assert deployed.read(tmp_path) is None
    assert deployed.read("gpt2") is None


WHOLE = {"schema": 1, "kind": "beam", **vars(SETTINGS), "fitted": {}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("\xff", "cannot be read"),
        ([1], "schema 'list'"),
        ({**WHOLE, "schema": 2}, "schema 2, and this version of Snellen reads 1"),
        ({**WHOLE, "kind": "particles"}, "kind 'particles'"),
        ({name: WHOLE[name] for name in WHOLE if name != "weight"}, "lacks weight"),
        ({**WHOLE, "weight": "much"}, "weight 'much' is of the wrong kind"),
        ({**WHOLE, "width": 2.5}, "width 2.5 is of the wrong kind"),
        ({**WHOLE, "width": True}, "width True is of the wrong kind"),
        ({**WHOLE, "weight": 1.5}, "weight 1.5: must lie between 0 and 1"),
        ({**WHOLE, "mix": "odd"}, "mix 'odd'"),
        ({**WHOLE, "alpha": "inf"}, "no geometric mix"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(content, said, tmp_path):
    path = tmp_path / deployed.NAME
    path.write_bytes(content.encode("latin1") if isinstance(content, str) else json.dumps(content).encode())
    with pytest.raises(InputError, match=said) as error:
        deployed.read(tmp_path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).endswith("write it again with save_amplified, or remove it to use the model without")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny llama and a lookahead that was saved with it."""
    place = tiny.model(tmp_path_factory.mktemp("saved"))
    subject = snellen.load(str(place))
    text = [" ".join(np.random.default_rng(i).choice(tiny.WORDS, size=120)) for i in range(4)]
    watched = HeldOut.of(text, subject.model, horizon=3, tokenizer=subject.tokenizer, bos=subject.identity.bos.token_id)
    out = tmp_path_factory.mktemp("out") / "amplified"
    out.mkdir()
    (out / deployed.NAME).write_text("of another model")
    found = save_amplified(subject.model, subject.tokenizer, out, Particles(particles=3, horizon=3), watched)
    assert deployed.read(out) == found
    return out


@pytest.fixture
def weighted(folder, tmp_path):
    """The same with a weight that shows in the text."""
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / deployed.NAME).unlink()
    deployed.Deployed(settings=replace(SETTINGS, weight=0.9), fitted={}, snellen="1").write(tmp_path)
    return tmp_path


def test_the_folder_is_an_ordinary_model(folder):
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[1, 2, 3]])
    ahead = snellen.Lookahead.from_folder(folder)
    assert torch.equal(plain(input_ids=ids).logits, ahead.model(input_ids=ids).logits)
    assert (ahead.settings.width, ahead.settings.horizon) == (3, 3)
    assert beam(plain.eval(), ids, 3, 3).tokens.shape == (1, 3, 3, 3)


def test_python_uses_it(weighted, tmp_path_factory):
    assert snellen.Lookahead.from_folder(weighted).settings == replace(SETTINGS, weight=0.9)
    with pytest.raises(InputError, match=r"no lookahead\.json there"):
        snellen.Lookahead.from_folder(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def run(capsys):
    def run(*arguments, code=0):
        found = main(["generate", *map(str, arguments), "--prompt", "the cat", "--max-new-tokens", "12"])
        out, err = capsys.readouterr()
        assert found == code, err
        return out, err

    return run


def test_generate_uses_it_and_says_so(run, weighted):
    out, err = run(weighted, "--json")
    found = json.loads(out)
    for name, value in vars(SETTINGS).items():
        assert found["settings"][name] == (0.9 if name == "weight" else value)
    assert found["settings_from"] == {"file": str(weighted / deployed.NAME), "settings": list(vars(SETTINGS))}
    line = f"lookahead as {weighted / deployed.NAME} has it: width 3, horizon 2, alpha 1.5, weight 0.9 (geometric)"
    assert line in err.splitlines()
    (text,) = found["texts"]
    given = ["--width", 3, "--horizon", 2, "--alpha", 1.5, "--weight", 0.9, "--mix", "geometric"]
    (weighted / deployed.NAME).unlink()
    plain = json.loads(run(weighted, "--json", *given)[0])
    assert plain["texts"] == [text]
    assert plain["settings_from"] is None
    assert json.loads(run(weighted, "--json")[0])["texts"] != [text]


def test_what_is_given_wins(run, weighted):
    out, err = run(weighted, "--json", "--weight", 0.1, "--width", 4)
    found = json.loads(out)
    assert (found["settings"]["weight"], found["settings"]["width"], found["settings"]["horizon"]) == (0.1, 4, 2)
    assert found["settings_from"]["settings"] == ["horizon", "alpha", "mix"]
    assert "; not its width, weight, which you gave" in err


def test_other_methods_do_not_look_at_it(run, weighted):
    (weighted / deployed.NAME).write_text("{")
    out, _ = run(weighted, "--method", "greedy", "--json")
    assert json.loads(out)["settings_from"] is None
    _, err = run(weighted, code=2)
    assert f"{weighted / deployed.NAME}: cannot be read" in err


def test_a_weight_of_zero_is_the_model_alone(run, weighted):
    one = replace(SETTINGS, weight=0.0, mix="linear")
    deployed.Deployed(settings=one, fitted={}, snellen="1").write(weighted)
    out, err = run(weighted, "--seed", 3)
    assert "so this is the model alone" in err
    assert out == run(weighted, "--seed", 3, "--weight", 0)[0]
