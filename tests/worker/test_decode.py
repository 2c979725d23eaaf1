"""The decode loop gives what transformers' `generate` gives, to everybody, whoever else is there."""

from __future__ import annotations

import pytest
import torch
from tests.worker.generating import CONFIGS, Person, finish, generation, ids, plain, tiny

from telepatch_protocol.errors import BadArgument, ExecutionError, IndexOutOfRange, NotYetSupported, OutOfMemory
from telepatch_worker.decode import Decoder
from telepatch_worker.lobby import Room

MODELS = ("gpt2-random", "llama-random", *CONFIGS)
SHARING = {"mistral": "equal", "gemma2": "equal", "bloom": "equal", "mamba": "alone"}
SITE = {
    "gpt2-random": "transformer.h.2:output",
    "llama-random": "model.layers.2:output",
    "gpt_neox": "gpt_neox.layers.1:output",
    "bloom": "transformer.h.1:output",
    "mamba": "backbone.layers.1:output",
}
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def any_engine(engines, tmp_path_factory, one_thread):
    made = {}

    def find(name):
        if name not in CONFIGS:
            return engines(name)
        if name not in made:
            made[name] = tiny(name, tmp_path_factory.mktemp(name))
        return made[name]

    yield find
    for engine in made.values():
        engine.close()


@pytest.fixture
def engine(any_engine, request):
    return any_engine(getattr(request, "param", "gpt2-random"))


@pytest.fixture
def decoder(engine):
    return Decoder(engine.model, engine.loaded)


def everywhere(function):
    return pytest.mark.parametrize("engine", MODELS, indirect=True)(function)


def site(engine):
    return SITE.get(engine.card.id.replace("gpt-neox", "gpt_neox"), "model.layers.1:output")


def run(decoder, person, *generations, **more):
    decoder.add(person, generations, **more)
    finish(decoder)
    return person


def same_where_sure(engine, person, name, prompt, new):
    """Logits are close for as long as the tokens agree, and tokens agree where the two likeliest are not near."""
    tokens, logits = plain(engine, prompt, new)
    given = person.tokens(name)
    for row, (own, reference) in enumerate(zip(given, tokens, strict=True)):
        assert len(own) == len(reference)
        for step, (mine, theirs) in enumerate(zip(own, reference, strict=True)):
            torch.testing.assert_close(person.logits[name][step][row], logits[step][row], **CLOSE)
            best = logits[step][row].topk(2).values
            if mine != theirs:
                assert best[0] - best[1] < 1e-4
                break


# Alone


@everywhere
def test_greedy_tokens_and_logits_alone_are_those_of_generate_bit_for_bit(engine, decoder):
    prompt = ids(9, 4, rows=2)
    tokens, logits = plain(engine, prompt, 24)
    person = run(decoder, Person(engine), generation("x", prompt, 24), alone=True)
    assert person.tokens("x") == tokens
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(person.logits["x"], logits, strict=True))


@pytest.mark.parametrize("engine", ["gpt2-random", "llama-random", "gpt_neox"], indirect=True)
@pytest.mark.parametrize("settings", [{}, {"top_k": 20}, {"top_p": 0.8}, {"top_k": 40, "top_p": 0.6}])
def test_sampled_tokens_are_those_of_a_plain_loop_with_the_same_random_numbers(engine, decoder, settings):
    prompt = ids(7, 1, rows=2)
    person = run(decoder, Person(engine), generation("x", prompt, 16, temperature=1.3, seed=11, **settings))
    generator, read, expected = torch.Generator().manual_seed(11), torch.tensor(prompt), []
    for _ in range(16):
        with torch.no_grad():
            scores = engine.loaded.module(input_ids=read, use_cache=False).logits[:, -1] / 1.3
        if "top_k" in settings:
            least = scores.topk(settings["top_k"]).values[:, -1:]
            scores[scores < least] = float("-inf")
        if "top_p" in settings:
            chances, order = scores.softmax(-1).sort(descending=True)
            over = chances.cumsum(-1) - chances >= settings["top_p"]
            scores[torch.zeros_like(over).scatter(1, order, over)] = float("-inf")
        token = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        read = torch.cat([read, token], 1)
        expected.append(token)
    assert person.tokens("x") == torch.cat(expected, 1).tolist()
    assert len(set(person.tokens("x")[0])) > 3
    assert person.results["x"].seed == 11


# In company


@everywhere
def test_company_of_all_lengths_that_comes_and_goes_changes_nobodys_tokens(engine, decoder):
    assert decoder.sharing == SHARING.get(engine.card.id, "any")
    plans = [(ids(5), 14), (ids(13, 1), 4), (ids(9, 2, rows=2), 20), (ids(9, 3), 9)]
    people = [Person(engine) for _ in plans]
    for person, (prompt, new) in zip(people, plans, strict=True):
        decoder.add(person, [generation("x", prompt, new)])
    late, later = Person(engine), Person(engine)
    for turn in range(8):
        decoder.turn()
        if turn == 2:
            decoder.add(late, [generation("x", ids(30, 5), 12)])
        if turn == 6:
            decoder.add(later, [generation("x", ids(3, 6), 12)])
    finish(decoder)
    for person, (prompt, new) in zip([*people, late, later], [*plans, (ids(30, 5), 12), (ids(3, 6), 12)], strict=True):
        same_where_sure(engine, person, "x", prompt, new)


@pytest.mark.parametrize(
    ("engine", "forwards"), [("gpt2-random", 6), ("mistral", 12), ("mamba", 18)], indirect=["engine"]
)
def test_forwards_are_shared_as_far_as_the_model_allows(engine, decoder, forwards):
    count = 0

    def counted(module, args, kwargs):
        nonlocal count
        count += 1

    handle = engine.loaded.module.register_forward_pre_hook(counted, with_kwargs=True)
    try:
        for prompt in (ids(4), ids(9, 1), ids(9, 2)):
            decoder.add(Person(engine), [generation("x", prompt, 6)])
        finish(decoder)
    finally:
        handle.remove()
    assert count == forwards


def test_a_seed_gives_the_same_tokens_alone_and_in_company(engine, decoder):
    alone = run(decoder, Person(engine), generation("x", ids(6), 20, temperature=1.0, seed=3), alone=True)
    person = Person(engine)
    decoder.add(Person(engine), [generation("y", ids(11, 1), 9, temperature=2.0, seed=3)])
    decoder.turn()
    run(decoder, person, generation("x", ids(6), 20, temperature=1.0, seed=3))
    assert person.tokens("x") == alone.tokens("x")
    other = run(decoder, Person(engine), generation("x", ids(6), 20, temperature=1.0, seed=4))
    assert other.tokens("x") != alone.tokens("x")


def test_who_asks_to_be_alone_shares_no_forward(engine, decoder):
    shapes = []
    handle = engine.loaded.module.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        decoder.add(Person(engine), [generation("x", ids(4), 3)])
        decoder.add(Person(engine), [generation("x", ids(6), 3)], alone=True)
        decoder.add(Person(engine), [generation("x", ids(5), 3)])
        finish(decoder)
    finally:
        handle.remove()
    assert sorted(shapes) == sorted([(1, 6), (2, 5), (1, 1), (2, 1), (1, 1), (2, 1)])


# Reads and writes


@everywhere
def test_steering_one_of_several_is_generate_under_a_hook_and_leaves_the_others_alone(engine, decoder):
    vector = torch.linspace(-2, 2, engine.loaded.module.config.hidden_size)
    steered, calm = Person(engine, writes={site(engine): lambda region: region + vector}), Person(engine)
    decoder.add(calm, [generation("x", ids(12, 1), 12)])
    decoder.add(steered, [generation("x", ids(7), 12)])
    finish(decoder)

    def steer(module, args, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    same_where_sure(engine, calm, "x", ids(12, 1), 12)
    bare = plain(engine, ids(7), 12)[1]
    handle = engine.loaded.module.get_submodule(site(engine).partition(":")[0]).register_forward_hook(steer)
    try:
        same_where_sure(engine, steered, "x", ids(7), 12)
    finally:
        handle.remove()
    assert not torch.allclose(steered.logits["x"][5], bare[5], atol=1e-2)


@everywhere
def test_reads_are_ones_own_rows_without_padding_at_the_prompt_and_at_every_step(engine, decoder):
    place = site(engine)
    seen = {}
    people = {length: Person(engine, reads=[place]) for length in (3, 8)}
    for length, person in people.items():
        decoder.add(person, [generation("x", ids(length, length, rows=2), 5)])
    decoder.turn()
    decoder.add(Person(engine), [generation("x", ids(11), 5)])
    finish(decoder)
    for length, person in people.items():
        handle = engine.loaded.module.get_submodule(place.partition(":")[0]).register_forward_hook(
            lambda module, args, output: seen.setdefault(length, []).append(  # noqa: B023 (removed at the end of the turn)
                output[0] if isinstance(output, tuple) else output
            )
        )
        try:
            plain(engine, ids(length, length, rows=2), 5)
        finally:
            handle.remove()
        mine = person.read_values["x", place]
        assert [tuple(value.shape[:2]) for value in mine] == [(2, length), *[(2, 1)] * 4]
        for value, reference in zip(mine, seen[length], strict=True):
            torch.testing.assert_close(value, reference, **CLOSE)


@pytest.mark.parametrize("engine", ["llama"], indirect=True)
def test_an_attention_pattern_in_company_shows_ones_own_keys_alone(engine, decoder):
    place = "model.layers.1.self_attn:output"
    module = engine.card.by_path["model.layers.1.self_attn"]
    leaf = next(leaf for leaf in module.output.leaves if leaf.axes.count("pos") == 2)
    person = Person(engine, reads=[place])
    moment = person._moment
    person._moment = lambda site, name, writes: _at(moment(site, name, writes), leaf)
    decoder.add(person, [generation("x", ids(4), 4)])
    decoder.add(Person(engine), [generation("x", ids(10), 4)])
    finish(decoder)
    mine = person.read_values["x", place]
    assert [tuple(value.shape) for value in mine] == [(1, 4, 4, 4), (1, 4, 1, 5), (1, 4, 1, 6), (1, 4, 1, 7)]
    assert all(torch.allclose(value.sum(-1), torch.ones(())) for value in mine)


def _at(moment, leaf):
    from dataclasses import replace

    return replace(moment, place=replace(moment.place, leaf=leaf.path), axes=leaf.axes)


def test_learned_positions_can_be_read_by_rows_of_different_lengths(engine, decoder):
    people = [Person(engine, reads=["transformer.wpe:output"]) for _ in range(2)]
    for person, length in zip(people, (3, 8), strict=True):
        decoder.add(person, [generation("x", ids(length, rows=2), 3)])
    finish(decoder)
    table = engine.loaded.module.transformer.wpe.weight
    for person, length in zip(people, (3, 8), strict=True):
        first, second, third = person.read_values["x", "transformer.wpe:output"]
        assert torch.equal(first, table[None, :length])
        assert torch.equal(second, table[None, length : length + 1])
        assert torch.equal(third, table[None, length + 1 : length + 2])


def test_who_reads_the_head_sees_the_logits_of_every_position(engine, decoder):
    reader, other = Person(engine, reads=["lm_head:output"]), Person(engine)
    decoder.add(reader, [generation("x", ids(5), 3)])
    decoder.add(other, [generation("x", ids(9), 3)])
    finish(decoder)
    prompt, *steps = reader.read_values["x", "lm_head:output"]
    assert prompt.shape == (1, 5, 257)
    assert torch.equal(prompt[:, -1], reader.logits["x"][0])
    assert [tuple(one.shape) for one in steps] == [(1, 1, 257)] * 2
    same_where_sure(engine, other, "x", ids(9), 3)


def test_logits_of_prompt_positions_that_nobody_reads_are_not_computed(engine, decoder):
    shapes = []
    handle = engine.loaded.module.lm_head.register_forward_hook(
        lambda module, args, output: shapes.append(tuple(output.shape))
    )
    try:
        for length in (5, 9):
            decoder.add(Person(engine), [generation("x", ids(length), 2)])
        finish(decoder)
    finally:
        handle.remove()
    assert shapes == [(2, 1, 257)] * 2


def test_writing_the_logits_chooses_the_token(engine, decoder):
    def only(region):
        region = torch.full_like(region, -100.0)
        region[..., 42] = 0
        return region

    person = run(decoder, Person(engine, writes={"lm_head:output": only}), generation("x", ids(5), 4))
    assert person.tokens("x") == [[42] * 4]


# Siblings


def test_generations_of_one_owner_step_together_and_are_asked_together(engine, decoder):
    person = run(decoder, Person(engine), generation("a", ids(4), 3), generation("b", ids(9), 5))
    assert person.steps == [
        *[{"a": step, "b": step} for step in range(3)],
        {"b": 3},
        {"b": 4},
    ]
    same_where_sure(engine, person, "a", ids(4), 3)
    same_where_sure(engine, person, "b", ids(9), 5)


def test_the_sampled_token_may_be_replaced_before_it_becomes_input(engine, decoder):
    forced = Person(engine)
    forced.choose = lambda name, step, tokens: torch.full_like(tokens, 100 + step)
    run(decoder, forced, generation("x", ids(4), 4))
    assert forced.tokens("x") == [[100, 101, 102, 103]]
    with torch.no_grad():
        whole = engine.loaded.module(input_ids=torch.tensor([ids(4)[0] + [100, 101, 102]])).logits
    torch.testing.assert_close(torch.cat(forced.logits["x"]), whole[0, 3:], **CLOSE)


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        (torch.tensor([257]), IndexOutOfRange),
        (torch.tensor([1, 2]), ExecutionError),
        (torch.tensor([1.0]), BadArgument),
    ],
)
def test_a_replacement_that_is_no_token_fails_its_owner_only(engine, decoder, tokens, error):
    bad, good = Person(engine), Person(engine)
    bad.choose = lambda name, step, sampled: tokens
    decoder.add(good, [generation("x", ids(6), 4)])
    run(decoder, bad, generation("x", ids(4), 4))
    assert isinstance(bad.error, error)
    same_where_sure(engine, good, "x", ids(6), 4)


def test_an_owner_ends_one_of_its_generations_and_the_others_go_on(engine, decoder):
    person = Person(engine)
    person.stops = lambda name, step: name == "a" and step == 2
    run(decoder, person, generation("a", ids(4), 9), generation("b", ids(6), 9))
    assert person.results["a"].reasons == ("asked",)
    assert person.results["a"].lengths == (3,)
    assert person.results["b"].lengths == (9,)
    assert person.tokens("a")[0] == plain(engine, ids(4), 3)[0][0]


# Ends


def test_rows_end_one_by_one_and_wait_as_padding(engine, decoder):
    person = Person(engine)
    person.choose = lambda name, step, tokens: torch.tensor([7 if step == 1 else 5, 7 if step == 3 else 6])
    run(decoder, person, generation("x", ids(4, rows=2), 10, eos=(7,)))
    result = person.results["x"]
    assert result.tokens.tolist() == [[5, 7, 256, 256], [6, 6, 6, 7]]
    assert (result.lengths, result.reasons) == ((2, 4), ("eos", "eos"))


def test_the_models_own_last_token_ends_a_row_unless_told_otherwise(engine, decoder):
    person = Person(engine)
    person.choose = lambda name, step, tokens: torch.full_like(tokens, 256 if step == 2 else 5)
    run(decoder, person, generation("x", ids(4), 5, eos=None), generation("y", ids(4), 5, eos=()))
    assert (person.results["x"].lengths, person.results["x"].reasons) == ((3,), ("eos",))
    assert (person.results["y"].lengths, person.results["y"].reasons) == ((5,), ("length",))


def test_a_stop_text_is_found_across_tokens(engine, decoder):
    person = Person(engine)
    text = "say: the end, and more"
    person.choose = lambda name, step, tokens: torch.tensor([text.encode()[step]])
    run(decoder, person, generation("x", ids(4), 20, texts=("nothing", "e end")))
    assert person.results["x"].reasons == ("stop",)
    assert bytes(person.tokens("x")[0]).decode() == "say: the end"


def test_it_stops_where_the_model_has_no_position_left(engine, decoder):
    person = run(decoder, Person(engine), generation("x", ids(250), 20), generation("y", ids(256), 20))
    assert (person.results["x"].lengths, person.results["x"].reasons) == ((7,), ("positions",))
    assert person.results["y"].lengths == (1,)
    assert person.tokens("x") == plain(engine, ids(250), 7)[0]


def test_a_prompt_longer_than_the_model_is_refused_with_the_numbers(engine, decoder):
    with pytest.raises(BadArgument, match=r"'x' has shape \(1, 257\).*1 to 256 positions"):
        decoder.add(Person(engine), [generation("x", ids(257), 1)])
    with pytest.raises(IndexOutOfRange, match="0 to 256"):
        decoder.add(Person(engine), [generation("x", [[3, 257]], 1)])
    assert not decoder.busy


def test_two_generations_of_one_owner_need_two_names(engine, decoder):
    person = Person(engine)
    decoder.add(person, [generation("x", ids(4), 2)])
    with pytest.raises(BadArgument, match="names of their own"):
        decoder.add(person, [generation("x", ids(4), 2)])
    finish(decoder)
    run(decoder, person, generation("x", ids(4), 2))


def test_an_encoder_is_refused(engines):
    bert = engines("bert-random")
    with pytest.raises(NotYetSupported, match="encoder"):
        Decoder(bert.model, bert.loaded)


# Leaving


def test_who_is_dropped_between_steps_leaves_and_is_not_told_of_an_end(engine, decoder):
    gone, stays = Person(engine), Person(engine)
    decoder.add(gone, [generation("x", ids(5), 50)])
    decoder.add(stays, [generation("x", ids(9), 8)])
    for _ in range(3):
        decoder.turn()
    decoder.turn(lambda: [gone])
    finish(decoder)
    assert len(gone.logits["x"]) == 3
    assert not gone.results
    same_where_sure(engine, stays, "x", ids(9), 8)


def test_who_is_dropped_at_a_site_is_not_served_and_the_forward_goes_on_for_others(engine, decoder):
    asked = 0

    def dropped():
        nonlocal asked
        asked += 1
        return [gone] if asked > 20 else []

    gone, stays = Person(engine, reads=["transformer.ln_f:output"]), Person(engine)
    decoder.add(gone, [generation("x", ids(5), 50)])
    decoder.add(stays, [generation("x", ids(9), 4)])
    decoder.turn(dropped)
    assert not gone.read_values
    finish(decoder)
    assert not gone.logits
    same_where_sure(engine, stays, "x", ids(9), 4)


def test_a_forward_that_everybody_has_left_ends_at_once(engine, decoder):
    fired = []
    handle = engine.loaded.module.lm_head.register_forward_hook(lambda *_: fired.append(1))
    asked = 0

    def dropped():
        nonlocal asked
        asked += 1
        return [gone] if asked > 3 else []

    gone = Person(engine)
    try:
        decoder.add(gone, [generation("x", ids(5), 50)])
        decoder.turn(dropped)
    finally:
        handle.remove()
    assert not fired
    assert not decoder.busy


def test_an_owner_that_raises_at_a_site_leaves_and_its_neighbours_do_not_notice(engine, decoder):
    def refuse(region):
        if region.shape[1] == 1:
            raise RuntimeError("no")
        return region

    bad, good = Person(engine, writes={"transformer.h.1:output": refuse}), Person(engine)
    decoder.add(bad, [generation("x", ids(5), 6), generation("y", ids(4), 6)])
    decoder.add(good, [generation("x", ids(9), 6)])
    finish(decoder)
    assert str(bad.error) == "no"
    assert not bad.results
    same_where_sure(engine, good, "x", ids(9), 6)


def test_what_the_model_raises_fails_all_who_were_there_and_nobody_else(engine, decoder, monkeypatch):
    early, late = Person(engine), Person(engine)
    decoder.add(early, [generation("x", ids(5), 6)])
    decoder.turn()

    def full(module, args):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    handle = engine.loaded.module.transformer.h[2].register_forward_pre_hook(full)
    try:
        decoder.turn()
    finally:
        handle.remove()
    run(decoder, late, generation("x", ids(5), 6))
    assert isinstance(early.error, OutOfMemory)
    assert late.tokens("x") == plain(engine, ids(5), 6)[0]


# Room


def test_there_are_never_more_rows_or_bytes_than_there_is_room_for(engine):
    sizes = []
    handle = engine.loaded.module.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    try:
        one = Decoder(engine.model, engine.loaded).price(generation("x", ids(4), 4))
        for room, most in ((Room(rows=2), 2), (Room(bytes=3 * one), 3), (Room(tokens=8), 5)):
            sizes.clear()
            decoder = Decoder(engine.model, engine.loaded, room)
            people = [Person(engine) for _ in range(5)]
            for person in people:
                decoder.add(person, [generation("x", ids(4), 4)])
            finish(decoder)
            assert max(sizes) == most
            assert all(person.results for person in people)
    finally:
        handle.remove()


def test_what_is_too_big_for_the_room_runs_when_nothing_else_does(engine):
    decoder = Decoder(engine.model, engine.loaded, Room(rows=2))
    people = [Person(engine) for _ in range(3)]
    for person, rows in zip(people, (1, 5, 1), strict=True):
        decoder.add(person, [generation("x", ids(4, rows=rows), 4)])
    finish(decoder)
    assert all(person.results for person in people)


def test_the_models_weights_and_its_own_generate_are_as_before(engine, decoder, weights):
    before = weights(engine.loaded.module), plain(engine, ids(6), 5)[0]
    run(decoder, Person(engine, writes={"transformer.h.1:output": lambda region: region * 2}), generation("x", ids(6)))
    assert (weights(engine.loaded.module), plain(engine, ids(6), 5)[0]) == before
