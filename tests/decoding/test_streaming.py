"""What a streamer hears, and when."""

import pytest

from probcomp.decoding import decode
from probcomp.errors import InputError


class Collect:
    def __init__(self):
        self.put_ids, self.drafts, self.ended, self.calls = [], 0, False, []

    def put(self, ids):
        self.put_ids += ids.tolist()
        self.calls.append(self.drafts)

    def put_draft(self, ids):
        self.drafts += 1

    def end(self):
        self.ended = True


def test_a_streamer_gets_the_answer_once_and_in_order():
    streamer = Collect()
    output = decode(prompt="+385+267", streamer=streamer)
    assert streamer.put_ids == output.answers[0].tolist()
    assert streamer.drafts == output.nfe[0]
    assert streamer.ended
    with pytest.raises(InputError, match="one row"):
        decode(prompt=["+1+2", "+3+4"], streamer=Collect())


def test_tokens_come_as_soon_as_all_before_them_are_decided():
    serial = {"preset": "serial", "max_new_tokens": 8, "order": "ltr"}
    streamer = Collect()
    output = decode(prompt="+385+267", streamer=streamer, **serial, history=True)
    assert streamer.put_ids == output.answers[0].tolist()
    final = []
    for step in output.history:
        masked = step.ids[0] == 2
        final.append(int(masked.long().argmax()) if masked.any() else len(masked))
    grew = [i + 1 for i, (a, b) in enumerate(zip([0, *final], final)) if b > a]
    assert streamer.calls == grew


def test_what_may_be_revised_is_put_at_the_end_alone():
    streamer = Collect()
    output = decode(prompt="+385+267", preset="wino", max_new_tokens=16, streamer=streamer)
    assert streamer.calls == [len([0] * streamer.drafts)]
    assert streamer.put_ids == output.answers[0].tolist()


def test_a_streamer_without_drafts_will_do():
    class Plain(Collect):
        put_draft = property()  # hasattr is False

    streamer = Plain()
    output = decode(prompt="+1+2", streamer=streamer)
    assert streamer.put_ids == output.answers[0].tolist()
    assert streamer.ended
