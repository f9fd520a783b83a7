"""The scripted worker, whose consumer a signal stops for ever: the one thread that waits for wake-ups, and no other."""

import signal
import sys
import time
from pathlib import Path

from core.settings import Settings
from tools.scripted_worker import Journal, ScriptedEngine
from worker.presence import Presence
from worker.runner import Recordings
from worker.serving import Runs, serve

DEAFEN = signal.SIGRTMIN


def prepare(_settings: Settings, _media: Recordings, _presence: Presence) -> Runs:
    return ScriptedEngine(Journal(Path(sys.argv[1])), None)


if __name__ == "__main__":
    signal.signal(DEAFEN, lambda *_: time.sleep(3600))
    serve(prepare)
