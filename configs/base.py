"""RoBERTa-base, as the paper pretrained it (arXiv 1907.11692, Table 9).

    layers 12, hidden 768, FFN 3072, heads 12: 124,697,433 parameters
    peak lr 6e-4, 24,000 of 500,000 steps of warm-up, then linear to 0; batch 8,192 × 512; weight decay 0.01

    python -m roberta_jax.main --config=configs/base.py --workdir=RUN --config.data.source='text/*.txt.zst'

On 160 GB of English the paper's base model reaches 87.6 on MNLI and 94.8 on SST-2 (fairseq's model cards). With less data
and fewer machines take fairseq's smaller recipe: batch 2,048, learning rate 5e-4, 125,000 steps, 10,000 of warm-up.
Meant for slices of v5e:2x4 and v4:2x2x1 and more, or GPUs from A100 on. Of a chip's HBM it takes 6.9 of 15.75 GiB on
v5e:2x4, 7.0 of 30.75 on v4:2x2x1 and 5.9 of 74.5 on eight H100, where --config.microbatch_size=128 takes 18.3 and is some
5% faster by its roofline (python -m roberta_jax.plan --config=configs/base.py --topology=v5e:2x4).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "pretrain"
    config.steps = 500_000  # updates
    config.batch_size = 8_192  # rows of a global batch
    config.microbatch_size = 32  # rows that a device takes at once, the rest is accumulated; 0: its whole share
    config.seed = 0  # of initial weights, order, masks and dropout
    config.init_from = ""  # a workdir, a folder of transformers or fairseq, a hub name; sizes come from there
    config.fsdp = 1  # devices over which parameters and optimizer state are spread; 1 replicates them
    config.log_every = 100  # steps
    config.eval_every = 5_000  # steps; the whole valid split
    config.checkpoint_every = 5_000  # steps
    config.keep_checkpoints = 2  # the newest; the best by valid loss is kept beside them

    config.model = ConfigDict()
    config.model.vocab_size = 50_265  # the tokenizer's, exactly; 0: whatever that is
    config.model.num_layers = 12
    config.model.hidden_size = 768
    config.model.intermediate_size = 3_072
    config.model.num_heads = 12
    config.model.max_length = 512  # positions; at least data.length; 0: that
    config.model.dropout = 0.1  # on embeddings, attention output and feed-forward output
    config.model.attention_dropout = 0.1  # on attention probabilities
    config.model.initializer_range = 0.02  # standard deviation of the initial weights
    config.model.dtype = "bfloat16"  # of the arithmetic, or "float32"; parameters are float32
    config.model.remat = "none"  # what the backward pass computes again to save memory: "none", "dots", "full"
    config.model.attention = "kernel"  # on TPUs, and on GPUs in bfloat16, where rows fit it; or "xla" everywhere

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "lamb": each layer's update is scaled to its weights' norm
    config.optimizer.learning_rate = 6e-4  # at its peak
    config.optimizer.warmup_steps = 24_000
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay_bias_and_norm = True  # as fairseq did; False leaves these out, as transformers does
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.clip_norm = 0.0  # of the whole gradient; 0: no clipping

    config.guard = ConfigDict()  # each decision goes to incidents.jsonl
    config.guard.skip_above = 10.0  # a gradient norm so many times the median of the last 128 is not applied; 0: only NaN
    config.guard.spike_above = 10.0  # a loss so many robust deviations above the median of the last 128 is a spike; 0: none
    config.guard.spike_steps = 5  # of a spike or not applied, in a row: back to the last good checkpoint, past their batches
    config.guard.rewinds = 3  # in a row that end the run; 0: it never goes back

    config.data = ConfigDict()
    # A file, folder or glob of .txt, .jsonl, .parquet (plain, .gz, .zst), a prepared corpus, tfds:NAME[:split], or
    # docs, the docstrings of the Python packages installed here. Paths may be URLs: gs://, s3://. Several are parted by commas.
    config.data.source = "docs"
    config.data.tokenizer = "50265"  # a folder with vocab.json and merges.txt, or the size of a vocabulary to train
    config.data.encoding = "bytes"  # of it: byte-level BPE; or "wordpiece", "unigram", "bpe" (SentencePiece's), "characters"
    config.data.format = "full-sentences"  # or "doc-sentences", "doc-sentences-packed", "segment-pair", "sentence-pair"
    config.data.length = 512  # ids a row
    config.data.valid_fraction = 0.01  # of the documents, by their hash
    config.data.fraction = 1.0  # of the train rows that are used, evenly spread over the corpus
    config.data.masking = "roberta"  # or "fairseq", "hf", "whole_word", "static", "spans"
    config.data.masking_rate = 0.15
    config.data.mask_replace_prob = 0.8  # of the predicted tokens: these become <mask>
    config.data.random_replace_prob = 0.1  # and these a random token; the rest is kept. BabyBERTa: 0.9, 0.1, none kept
    config.data.text_column = "text"  # of .jsonl, .parquet and TFDS
    config.data.documents = "blank-line"  # what parts the documents of a .txt; "file": each file is one
    config.data.invalid_utf8 = "replace"  # or "error"
    config.data.bad_records = "error"  # what cannot be read: broken lines, damaged files; or "skip": counted and left out
    config.data.deduplicate = "none"  # documents to drop: "exact", equal to an earlier one; "near", or nearly so
    config.data.exclude = ""  # evaluation sets, as sources: documents that share 13 words in a row with them are dropped
    config.data.cache = "~/.cache/roberta_jax"  # of prepared corpora and trained vocabularies
    config.data.processes = 0  # that prepare the corpus; 0: one a core
    return config
