"""What the pinned libraries say on import that nobody can act on: their versions are pinned together."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# "This version of torchaudio is old", "Registered checkpoint save hook". Filters, since speechbrain sets its loggers' levels itself.
for _name in ("speechbrain.utils.torch_audio_backend", "speechbrain.utils.checkpoints"):
    logging.getLogger(_name).addFilter(lambda _: False)
# "Lightning automatically upgraded your loaded checkpoint": in memory, of the weights inside WhisperX's wheel
logging.getLogger("pytorch_lightning.utilities.migration.utils").setLevel(logging.WARNING)


@contextmanager
def quiet_imports() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # pkg_resources in lightning, "\s" in pyannote.database
        warnings.filterwarnings("ignore", message="Module 'speechbrain.pretrained' was deprecated")
        yield
