"""What the doctor says of the GPU: from planted reports of the driver, and once from this machine's own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import OurError
from core.settings import Settings
from tests.worker.doctor.drivers import driver
from tests.worker.doctor.environments import doctor
from worker.doctor.findings import Finding, Verdict
from worker.doctor.gpu import CACHE, CARD, CHECKS, COMPUTE_TYPE, DRIVER, KERNELS, MEMORY, gpu_findings
from worker.doctor.kernels import CTRANSLATE2_ARCHS, Fit, fit
from worker.doctor.nvml import Gpu, Process, Report, Unreadable, read_report
from worker.engine.budget import GIB

CU118 = ("sm_37", "sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")  # torch 2.0.0+cu118's
CU117 = CU118[:-1]  # PyPI's torch 2.0.0
NEW = "580.159.04"


def card(
    name: str = "NVIDIA GeForce RTX 3090", capability: tuple[int, int] = (8, 6), gib: float = 24, free_gib: float | None = None
) -> Gpu:
    return Gpu(f"GPU-{name}", name, capability, int(gib * GIB), int((gib - 0.4 if free_gib is None else free_gib) * GIB))


H100 = card("NVIDIA H100 80GB HBM3", (9, 0), 80)


def diagnose(
    *gpus: Gpu | Unreadable,
    driver: str = NEW,
    archs: tuple[str, ...] = CU118,
    environment: Mapping[str, str] | None = None,
    **settings: object,
) -> dict[str, Finding]:
    configured = Settings.model_validate({"asr_model": "large-v2", "model_dir": "/nowhere"} | settings)
    findings = gpu_findings(configured, archs, environment or {}, read=lambda: Report(driver, gpus))
    assert [finding.check for finding in findings] == list(CHECKS)
    return {finding.check: finding for finding in findings}


def verdicts(findings: Mapping[str, Finding]) -> dict[str, Verdict]:
    return {check: finding.verdict for check, finding in findings.items()}


def test_a_common_card_is_well_and_says_what_the_budget_chose() -> None:
    findings = diagnose(card())
    assert set(verdicts(findings).values()) == {Verdict.OK}
    assert "large-v2: float16, batch " in findings[MEMORY].found


def test_every_finding_that_is_not_well_says_what_to_do() -> None:
    everything = [
        diagnose(card(), driver="470.57.02"),
        diagnose(card("RTX 5090", (12, 0), 32)),
        diagnose(card(gib=4)),
        diagnose(),
        diagnose(replace(card(), memory_errors=3)),
        diagnose(H100),
        diagnose(card("GTX 1080", (6, 1), 8), compute_type="float16"),
    ]
    bad = [f for findings in everything for f in findings.values() if f.verdict in (Verdict.WRONG, Verdict.WARNING)]
    assert len(bad) >= len(everything)
    assert [finding for finding in bad if not finding.remedy] == []


@pytest.mark.parametrize("version", ["450.80.02", "520.61.05", "525.60.11"])
def test_a_driver_too_old_for_cuda_12_is_wrong(version: str) -> None:
    finding = diagnose(card(), driver=version)[DRIVER]
    assert finding.verdict == Verdict.WRONG
    assert "525.60.13" in finding.remedy


@pytest.mark.models
def test_the_command_finds_a_driver_too_old_and_memory_too_small(tmp_path: Path, ffmpeg: str) -> None:
    """Asked of a driver library, by the name and on the path of the real one."""
    library_path = str(driver(tmp_path / "driver", "470.57.02", free_mib=700))
    doctored = doctor(library_path=library_path, ffmpeg=ffmpeg, file_store_dir=str(tmp_path))
    assert doctored.status == 1
    assert doctored.of(DRIVER).found == "470.57.02 is too old for CUDA 12"
    assert doctored.of(DRIVER).remedy.startswith("install NVIDIA driver 525.60.13 or newer on the host")
    assert doctored.of(CARD) == Finding(CARD, Verdict.OK, "NVIDIA GeForce RTX 3060 (Ampere, 8.6), 12.0 GiB")
    assert doctored.of(MEMORY).verdict is Verdict.WRONG
    assert doctored.of(MEMORY).found.endswith("11.3 GiB of processes that only the host can name (`nvidia-smi`)")


@pytest.mark.parametrize("version", ["525.60.13", "525.147.05", "535.54.03", "580.65.06"])
def test_a_driver_of_cuda_12_is_well(version: str) -> None:
    assert diagnose(card(), driver=version)[DRIVER].verdict == Verdict.OK


def test_a_gpu_that_compiles_ctranslate2s_ptx_needs_a_newer_driver() -> None:
    finding = diagnose(H100, driver="525.147.05")[DRIVER]
    assert finding.verdict == Verdict.WRONG
    assert "535.54.03" in finding.remedy


def test_without_a_driver_nothing_else_is_judged() -> None:
    def read() -> Report:
        raise Unreadable("no NVIDIA driver can be seen", "start the container with a GPU")

    findings = gpu_findings(Settings(), CU118, {}, read=read)
    assert [finding.verdict for finding in findings] == [Verdict.WRONG] + [Verdict.NOT_CHECKED] * 5
    assert findings[0].remedy == "start the container with a GPU"


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
def test_a_machine_without_a_driver_says_so_and_how_to_get_one() -> None:
    with pytest.raises(Unreadable, match="no NVIDIA driver can be seen") as error:
        read_report()
    assert "nvidia-container-toolkit" in error.value.remedy


@pytest.mark.skipif(not Path("/proc/driver/nvidia").exists(), reason="there is no driver here")
def test_a_machine_with_a_driver_is_read() -> None:
    report = read_report()
    assert report.gpus
    assert all(isinstance(gpu, Gpu) and 0 < gpu.free_bytes <= gpu.total_bytes for gpu in report.gpus)


@pytest.mark.parametrize(
    ("settings", "why"), [({"device": "cpu"}, "SPILLWAY_DEVICE=cpu"), ({"gpu_stack": "none"}, "SPILLWAY_GPU_STACK=none")]
)
def test_where_no_gpu_is_meant_none_is_looked_for(settings: dict[str, str], why: str) -> None:
    def read() -> Report:
        raise AssertionError

    findings = gpu_findings(Settings.model_validate(settings), CU118, {}, read=read)
    assert {finding.verdict for finding in findings} == {Verdict.NOT_CHECKED}
    assert all(why in finding.found for finding in findings)


def test_a_driver_that_shows_no_gpu_asks_for_the_reservation() -> None:
    finding = diagnose()[CARD]
    assert finding.verdict == Verdict.WRONG
    assert "docker-compose.override.yml" in finding.remedy


def test_an_index_beyond_the_gpus_is_wrong() -> None:
    finding = diagnose(card(), card(), device_index=2)[CARD]
    assert finding.verdict == Verdict.WRONG
    assert "0 to 1" in finding.remedy


def test_of_two_gpus_the_one_with_the_index_is_judged() -> None:
    small = card("NVIDIA GeForce GTX 1060 6GB", (6, 1), 6)
    findings = diagnose(card(), small, device_index=1, environment={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert "GTX 1060" in findings[CARD].found
    assert findings[CARD].verdict == Verdict.OK
    assert "int8_float32, batch 1" in findings[MEMORY].found


def test_two_gpus_that_differ_are_counted_as_nvidia_smi_does_or_warned_about() -> None:
    finding = diagnose(card(), card("NVIDIA GeForce GTX 1060 6GB", (6, 1), 6))[CARD]
    assert finding.verdict == Verdict.WARNING
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in finding.remedy


@pytest.mark.parametrize(("visible", "named"), [("1", "Tesla T4"), ("GPU-Tesla", "Tesla T4"), ("0,1", "RTX 3090"), ("1,0", "Tesla T4")])
def test_what_cuda_visible_devices_hides_is_not_counted(visible: str, named: str) -> None:
    findings = diagnose(card(), card("Tesla T4", (7, 5), 16), environment={"CUDA_VISIBLE_DEVICES": visible})
    assert named in findings[CARD].found


@pytest.mark.parametrize("visible", ["", "-1", "7"])
def test_cuda_visible_devices_that_hides_every_gpu_is_named(visible: str) -> None:
    assert "CUDA_VISIBLE_DEVICES" in diagnose(card(), environment={"CUDA_VISIBLE_DEVICES": visible})[CARD].found


def test_a_gpu_that_is_lost_is_wrong_while_its_neighbour_is_well() -> None:
    lost = Unreadable("the GPU is lost", "restart the host")
    assert diagnose(lost, card())[CARD] == Finding(CARD, Verdict.WRONG, "the GPU is lost", "restart the host")
    assert diagnose(lost, card(), device_index=1)[CARD].verdict == Verdict.OK


def test_memory_errors_are_a_warning() -> None:
    finding = diagnose(replace(card(), memory_errors=2))[CARD]
    assert finding.verdict == Verdict.WARNING
    assert "2 memory errors" in finding.found


@pytest.mark.parametrize(("instances", "verdict"), [(0, Verdict.WRONG), (1, Verdict.OK), (3, Verdict.WARNING)])
def test_a_partitioned_gpu_is_judged_by_the_instances_that_are_visible(instances: int, verdict: Verdict) -> None:
    finding = diagnose(replace(card("NVIDIA A100", (8, 0), 10), mig_instances=instances))[CARD]
    assert finding.verdict == verdict


@pytest.mark.parametrize(
    ("capability", "archs", "how"),
    [
        ((8, 9), CTRANSLATE2_ARCHS, Fit.NATIVE),  # of its major version and no lower minor
        ((6, 2), CTRANSLATE2_ARCHS, Fit.NATIVE),
        ((9, 0), CTRANSLATE2_ARCHS, Fit.COMPILED),
        ((12, 0), CTRANSLATE2_ARCHS, Fit.COMPILED),
        ((5, 2), CTRANSLATE2_ARCHS, Fit.NONE),  # sm_53 is above it
        ((3, 7), CTRANSLATE2_ARCHS, Fit.NONE),
        ((9, 0), CU118, Fit.NATIVE),
        ((9, 0), CU117, Fit.NONE),
        ((10, 0), CU118, Fit.NONE),
        ((12, 0), CU118, Fit.NONE),
    ],
)
def test_code_runs_on_a_gpu_by_nvidias_rules(capability: tuple[int, int], archs: tuple[str, ...], how: Fit) -> None:
    assert fit(capability, archs) == how


def test_what_is_no_architecture_is_refused() -> None:
    with pytest.raises(OurError, match="sm_what"):
        fit((8, 6), ["sm_what"])


@pytest.mark.parametrize(
    ("gpu", "found"),
    [
        (card("NVIDIA GeForce RTX 5090", (12, 0), 32), "torch has no code"),
        (card("NVIDIA B200", (10, 0), 180), "torch has no code"),
        (card("NVIDIA GeForce GTX 970", (5, 2), 4), "CTranslate2 has no code"),
        (card("Tesla K80", (3, 7), 12), "CTranslate2 has no code"),
    ],
)
def test_a_gpu_too_new_or_too_old_is_refused_by_name(gpu: Gpu, found: str) -> None:
    findings = diagnose(gpu)
    finding = findings[KERNELS]
    assert finding.verdict == Verdict.WRONG
    assert findings[CACHE].verdict == findings[MEMORY].verdict == Verdict.NOT_CHECKED
    assert found in finding.found
    assert gpu.name in finding.found
    assert "Pascal to Hopper" in finding.remedy


def test_hopper_with_pypis_torch_is_told_of_the_right_one() -> None:
    assert "cu118" in diagnose(H100, archs=CU117)[KERNELS].remedy


def test_a_torch_without_cuda_is_wrong() -> None:
    assert diagnose(card(), archs=())[KERNELS].verdict == Verdict.WRONG


def test_what_is_compiled_at_first_use_is_kept_on_a_volume(tmp_path: Path) -> None:
    findings = diagnose(H100, environment={"CUDA_CACHE_PATH": str(tmp_path / "not made yet")})
    assert findings[KERNELS].verdict == findings[CACHE].verdict == Verdict.OK
    assert "compiled" in findings[KERNELS].found


@pytest.mark.parametrize(
    "environment", [{}, {"CUDA_CACHE_PATH": f"{__file__}/cache"}, {"CUDA_CACHE_PATH": "/tmp", "CUDA_CACHE_DISABLE": "1"}]
)
def test_a_cache_that_keeps_nothing_is_a_warning(environment: dict[str, str]) -> None:
    finding = diagnose(H100, environment=environment)[CACHE]
    assert finding.verdict == Verdict.WARNING
    assert "CUDA_CACHE" in finding.remedy


@pytest.mark.parametrize(
    ("capability", "wished", "verdict"),
    [
        ((6, 1), "auto", Verdict.OK),
        ((6, 1), "int8", Verdict.OK),
        ((6, 1), "float16", Verdict.WRONG),
        ((6, 0), "int8", Verdict.WRONG),
        ((7, 5), "int8_float16", Verdict.OK),
        ((7, 5), "bfloat16", Verdict.WRONG),
        ((8, 0), "bfloat16", Verdict.OK),
        ((8, 0), "int16", Verdict.WRONG),
    ],
)
def test_a_compute_type_that_ctranslate2_would_refuse_is_found_before_it_does(
    capability: tuple[int, int], wished: str, verdict: Verdict
) -> None:
    findings = diagnose(card("a card", capability, 16), compute_type=wished)
    assert findings[COMPUTE_TYPE].verdict == verdict


@pytest.mark.parametrize(
    ("gpu", "plan"),
    [
        (card("NVIDIA GeForce RTX 2060", (7, 5), 6), "int8_float16, batch "),
        (card("NVIDIA GeForce GTX 1060 6GB", (6, 1), 6), "int8_float32, batch "),
    ],
)
def test_a_card_of_6_gb_gets_something_that_works(gpu: Gpu, plan: str) -> None:
    findings = diagnose(gpu)
    assert findings[MEMORY].verdict == Verdict.OK
    assert plan in findings[MEMORY].found


def test_a_model_that_does_not_fit_names_one_that_does() -> None:
    finding = diagnose(card("NVIDIA GeForce GTX 1650", (7, 5), 4))[MEMORY]
    assert finding.verdict == Verdict.WRONG
    assert "SPILLWAY_ASR_MODEL=" in finding.remedy


def test_who_else_holds_the_memory_is_named() -> None:
    busy = replace(card(free_gib=8), others=(Process(4242, "/usr/bin/ollama", 15 * GIB),))
    finding = diagnose(busy)[MEMORY]
    assert finding.verdict == Verdict.WARNING
    assert "/usr/bin/ollama (pid 4242) 15.0 GiB" in finding.found


def test_others_that_the_container_cannot_name_are_counted() -> None:
    finding = diagnose(card(free_gib=2))[MEMORY]
    assert finding.verdict == Verdict.WRONG
    assert "22.0 GiB of processes that only the host can name" in finding.found


@pytest.mark.parametrize("gpu", [card(free_gib=23.3), card("NVIDIA L40S", (8, 9), 48, 47.1)])
def test_a_desktop_or_the_driver_itself_that_takes_a_little_is_no_matter(gpu: Gpu) -> None:
    assert diagnose(gpu)[MEMORY].verdict == Verdict.OK


def test_a_model_of_unknown_size_is_not_judged() -> None:
    finding = diagnose(card(), asr_model="somebody/faster-whisper-dialect")[MEMORY]
    assert finding.verdict == Verdict.NOT_CHECKED


@pytest.mark.parametrize(("size_bytes", "verdict"), [(10_000_000, Verdict.OK), (500_000_000, Verdict.WRONG)])
def test_the_size_of_the_file_that_is_there_counts(tmp_path: Path, size_bytes: int, verdict: Verdict) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(size_bytes)  # sparse, and read once for its digest
    assert diagnose(card("a card", (7, 5), 3.2), asr_model=str(tmp_path))[MEMORY].verdict == verdict
