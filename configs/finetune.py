"""Fine-tuning: `--config=configs/finetune.py:TASK`, where TASK is a row of roberta_jax/tasks/definitions.py.

    cola sst2 mrpc stsb qqp mnli qnli rte wnli squad squad2 race race-middle race-high conll2003 wnut17
    custom-classification custom-multi-label custom-regression custom-multiple-choice custom-span custom-tagging
    glue, which is the first nine, or several parted by commas

    python -m roberta_jax.main --config=configs/finetune.py:rte --workdir=RUN --config.init_from=MODEL --config.data.source=RTE

Adam β 0.9, 0.98, ε 1e-6; linear decay after a warm-up of 6% of the steps; dropout 0.1; no clipping (the paper, Table 10).
Learning rate, batch size, weight decay and epochs are the task's there. From the released base model the paper's recipe
reaches 78.7 on RTE, 94.8 on SST-2 and 63.6 on CoLA: medians of five seeds, the best epoch on the dev set.
"""

from ml_collections import ConfigDict

from roberta_jax.tasks.definitions import TASKS


def get_config(task: str = "") -> ConfigDict:
    config = ConfigDict()
    config.job = "finetune"
    config.task = task
    config.init_from = ""  # the model to begin with: a workdir, a folder of transformers or fairseq, a hub name
    config.from_scratch = False  # init_from gives its shape and tokenizer alone; the weights are random
    config.seed = 0  # of the head, the order and dropout
    config.seeds = 1  # runs, from `seed` on: the results are their median and spread
    config.sweep = False  # the paper's grid: learning rates 1e-5, 2e-5, 3e-5, batches of 16 and 32
    config.together = 0  # runs that are trained as one, stacked; 0: all that memory holds, on a CPU one at a time
    config.from_mnli = False  # of glue: RTE, MRPC and STS-B begin with the MNLI run's encoder
    config.steps = 0  # updates; 0: `epochs` says how many
    config.microbatch_size = 0  # rows that a device takes at once, the rest is accumulated; 0: its whole share
    config.fsdp = 1  # devices over which parameters and optimizer state are spread; 1 replicates them
    config.max_length = 512  # ids of a row
    config.packed = False  # several training examples in a row, kept apart by attention: classification and tagging
    config.patience = 0  # evaluations without a better one that end the run; 0: none do
    config.log_every = 50  # steps
    config.eval_every = 0  # steps; 0: every epoch
    config.checkpoint_every = 0  # steps; 0: when it evaluates
    config.keep_checkpoints = 1  # each holds the best parameters too

    config.model = ConfigDict()  # the sizes are those of init_from
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.1
    config.model.dtype = "float32"  # of the arithmetic, or "bfloat16"
    config.model.remat = "none"
    config.model.attention = "kernel"

    config.optimizer = ConfigDict()
    config.optimizer.warmup_steps = 0.06  # of the steps; 1 and more: steps
    config.optimizer.decay_bias_and_norm = True
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.clip_norm = 0.0
    if task in TASKS:  # several tasks have each its own
        config.epochs = TASKS[task].epochs
        config.batch_size = TASKS[task].batch_size
        config.optimizer.learning_rate = TASKS[task].learning_rate  # at its peak
        config.optimizer.weight_decay = TASKS[task].weight_decay

    config.data = ConfigDict()
    # A folder with the task's published files (of several tasks: with their folders), tfds: for the task's own data set, or
    # tfds:NAME. The next three name files instead, parted by commas.
    config.data.source = ""
    config.data.train = ""
    config.data.valid = ""
    config.data.test = ""
    config.data.valid_fraction = 0.1  # of train, held out by a hash, where there is no valid split
    config.data.text_columns = ""  # of a table, parted by commas; "": the names that the task knows
    config.data.label_column = ""
    return config
