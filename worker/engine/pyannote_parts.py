"""What we use of pyannote.audio 3.1.1, imported without the noise that its dependencies make on import."""

import warnings

from worker.engine.linkage import linkage
from worker.engine.quiet import quiet_imports

with quiet_imports():
    from pyannote.audio import Model
    from pyannote.audio.core import task
    from pyannote.audio.models.embedding import WeSpeakerResNet34
    from pyannote.audio.models.segmentation import PyanNet
    from pyannote.audio.pipelines import SpeakerDiarization, clustering

# Fewer speakers than were asked for: seen in the turns, so neither a warning nor, in clustering, a print is needed.
warnings.filterwarnings("ignore", message=r"\s*The detected number of speakers")
clustering.print = lambda *_: None
clustering.linkage = linkage

__all__ = ["Model", "PyanNet", "SpeakerDiarization", "WeSpeakerResNet34", "task"]
