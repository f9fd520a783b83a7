"""What we use of WhisperX 3.2.0, imported without the noise that its dependencies make on import."""

from worker.engine.quiet import quiet_imports

with quiet_imports():
    from whisperx import vad
    from whisperx.audio import log_mel_spectrogram

__all__ = ["log_mel_spectrogram", "vad"]
