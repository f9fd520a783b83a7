"""Alignment models of the tests' own: no real wav2vec2 is on the package registries."""

import json
from pathlib import Path


def save_model(folder: Path, characters: str, norm: str, *, stable: bool) -> Path:
    """A small wav2vec2 with random weights and loud logits, so that the best path is best by far."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    folder.mkdir()
    vocabulary = {entry: index for index, entry in enumerate([*characters[:2], "[PAD]", "<unk>", *characters[2:]])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    special = {"pad_token": "[PAD]", "unk_token": "<unk>", "bos_token": "<unk>", "eos_token": "<unk>", "word_delimiter_token": "|"}
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **special)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": (32,) * 7}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=len(vocabulary),
            feat_extract_norm=norm,
            do_stable_layer_norm=stable,
            conv_bias=stable,
            pad_token_id=2,
            **sizes,
            **positions,
        )
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(60)
    model.save_pretrained(folder)
    return folder
