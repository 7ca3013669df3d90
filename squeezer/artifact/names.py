"""Names of tensors and files, as bytes that deflate well.

The names of a network are alike: most differ from the one before in the last one or two of their parts. So a name
becomes a number that says how many parts of the one before are dropped, and what follows the others. Unlike the number
of equal characters, that number is the same in all layers, however deep; and so deflation finds the same sequence in
each, and in the dictionary the usual ones.
"""

from __future__ import annotations

from squeezer.codecs.base import ByteReader, Category, CorruptStreamError, varint
from squeezer.errors import Code, ModelError

#: A byte that UTF-8 never has.
_END = b"\xff"
MAX_NAME_BYTES = (1 << 16) - 1
#: Of all names together: each repeats most of the one before, so that few bytes could stand for very many.
_MAX_TOTAL_BYTES = 1 << 26


#: What names are deflated with, a part of the format: names that occur in networks, the commonest last. Each line has
#: the number of parts that are dropped, and what follows.
USUAL = """\
0 tokenizer_config.json
1 special_tokens_map.json
1 vocab.txt
2 tokenizer.json
2 generation_config.json
2 config.json
0 transformer.h.0.ln_1.weight
1 bias
2 attn.c_attn.weight
1 bias
2 c_proj.weight
1 bias
3 ln_2.weight
1 bias
2 mlp.c_fc.weight
1 bias
2 c_proj.weight
1 bias
0 patch_embed.proj.weight
1 bias
0 blocks.0.norm1.weight
1 bias
2 attn.qkv.weight
1 bias
2 proj.weight
1 bias
3 norm2.weight
1 bias
2 mlp.fc1.weight
1 bias
2 fc2.weight
1 bias
0 model.embed_tokens.weight
0 model.layers.0.input_layernorm.weight
2 mlp.down_proj.weight
2 gate_proj.weight
2 up_proj.weight
3 post_attention_layernorm.weight
2 self_attn.k_proj.weight
1 bias
2 v_proj.weight
1 bias
2 q_proj.weight
1 bias
2 o_proj.weight
2 out_proj.weight
1 bias
2 lm_head.weight
0 embeddings.word_embeddings.weight
2 position_embeddings.weight
2 token_type_embeddings.weight
2 LayerNorm.weight
1 bias
0 encoder.layer.0.attention.self.query.weight
1 bias
2 key.weight
1 bias
2 value.weight
1 bias
3 output.dense.weight
1 bias
2 LayerNorm.weight
1 bias
4 intermediate.dense.weight
1 bias
3 output.dense.weight
1 bias
2 LayerNorm.weight
1 bias
2 pooler.dense.weight
1 bias
0 features.0.weight
1 bias
2 1.weight
0 features.denseblock1.denselayer1.
0 layer1.0.conv1.weight
4 layer2.0.conv1.weight
4 layer3.0.conv1.weight
4 layer4.0.conv1.weight
2 shortcut.0.weight
3 downsample.0.weight
2 1.weight
1 bias
1 running_mean
1 running_var
1 num_batches_tracked
2 classifier.weight
1 bias
2 head.weight
1 bias
2 linear.weight
1 bias
2 conv3.weight
2 bn3.weight
1 bias
1 running_mean
1 running_var
1 num_batches_tracked
0 conv1.weight
2 bn1.weight
1 bias
1 running_mean
1 running_var
1 num_batches_tracked
2 conv2.weight
2 bn2.weight
1 bias
1 running_mean
1 running_var
1 num_batches_tracked
2 fc.weight
1 bias
0 fc1.weight
1 bias
2 fc2.weight
1 bias
2 fc3.weight
1 bias
2 fc4.weight
1 bias
"""


def join_names(names: list[str]) -> bytes:
    """All names as bytes.

    Raises:
        ModelError: where they are longer than a reader accepts.
    """
    # A Python string may hold lone surrogates, and a checkpoint's name is any string.
    coded = [name.encode("utf-8", "surrogatepass") for name in names]
    _check_sizes(coded)
    out = []
    before: list[bytes] = []
    for parts in (name.split(b".") for name in coded):
        kept = _equal(before, parts)
        out.append(varint(len(before) - kept) + b".".join(parts[kept:]) + _END)
        before = parts
    return b"".join(out)


def _equal(before: list[bytes], parts: list[bytes]) -> int:
    """How many parts are kept: at most all but one of the new ones, since something always follows."""
    most = min(len(before), len(parts) - 1)
    return next((i for i in range(most) if before[i] != parts[i]), most)


def split_names(data: bytes, count: int) -> list[str]:
    """Read what `join_names` wrote.

    Raises:
        CorruptStreamError: where it is not so many names.
    """
    reader = ByteReader(data)
    names: list[bytes] = []
    before: list[bytes] = []
    total = 0
    for _ in range(count):
        kept = len(before) - reader.varint(limit=len(before))
        end = data.find(_END, len(data) - reader.remaining)
        if end < 0:
            raise CorruptStreamError("a name that does not end")
        rest = bytes(reader.take(end - len(data) + reader.remaining, Category.NAMES))
        reader.byte()
        before = before[:kept] + rest.split(b".")
        names.append(b".".join(before))
        total += len(names[-1])
        if len(names[-1]) > MAX_NAME_BYTES or total > _MAX_TOTAL_BYTES:
            raise CorruptStreamError("names that are too long")
    reader.finish()
    try:
        return [name.decode("utf-8", "surrogatepass") for name in names]
    except UnicodeDecodeError:
        raise CorruptStreamError("a name that is not UTF-8") from None


def _check_sizes(names: list[bytes]) -> None:
    if max(map(len, names), default=0) > MAX_NAME_BYTES or sum(map(len, names)) > _MAX_TOTAL_BYTES:
        raise ModelError(
            Code.UNSUPPORTED_NAMES,
            f"the model has names of more than {MAX_NAME_BYTES} bytes, or of {_MAX_TOTAL_BYTES} together; shorten them",
        )


#: The same as bytes.
DICTIONARY = b"".join(
    varint(int(dropped)) + rest.encode() + _END for dropped, rest in (line.split() for line in USUAL.splitlines())
)
