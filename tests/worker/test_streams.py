"""What jobs stream: gathered, in order, in events that are not too large."""

from __future__ import annotations

import asyncio

from telepatch_worker.streams import MOST_BYTES, Streams


async def test_values_of_a_moment_go_out_as_one_event_and_nothing_is_left_when_flushed():
    told, tasks = [], []

    async def tell(job, data):
        await asyncio.sleep(0.001)
        told.append((job, data["values"]))

    streams = Streams(tell, lambda work: tasks.append(asyncio.create_task(work)))
    for number in range(3):
        streams.add("a", {"n": number})
    streams.add("b", {"n": 9})
    await asyncio.gather(*tasks)
    assert told == [("a", [{"n": 0}, {"n": 1}, {"n": 2}]), ("b", [{"n": 9}])]
    streams.add("a", {"n": 3})
    await streams.flush("a")
    assert told[-1] == ("a", [{"n": 3}])
    streams.forget("a")
    await asyncio.gather(*tasks)
    assert len(told) == 3


async def test_much_at_once_goes_out_in_several_events_in_order():
    told = []

    async def tell(job, data):
        told.append(data["values"])

    streams = Streams(tell, lambda work: work.close())
    for number in range(100):
        streams.add("a", {"n": number, "text": "x" * (MOST_BYTES // 20)})
    await streams.flush("a")
    assert len(told) > 4
    assert [one["n"] for part in told for one in part] == list(range(100))
