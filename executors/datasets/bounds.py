"""Every cap on a dataset, with its unit and the reason for its size."""

from __future__ import annotations

FILE_BYTES_MAX = 16 * 1024**3
"""One data file: a table needs about one and a half times its file in memory while it is read."""

ROWS_MAX = 20_000_000
"""Rows of a table: ids, labels and clusters of that many take half a gigabyte."""

COLUMNS_MAX = 20_000
"""Columns of a table; wider ones are matrices that nobody keeps as text."""

CELLS_MAX = 2_000_000_000
"""Numbers of a tabular dataset: 8 GB as float32, the most a training process is asked to hold."""

FIELD_CHARS_MAX = 1_000_000
"""One field. A longer one is nearly always a quotation mark that is never closed."""

LINE_CHARS_MAX = 16_000_000
"""One line of a text file: a file without line ends must not be read into memory as a whole."""

TEXT_CHARS_MAX = 50_000
"""Of one example; longer texts are cut (some 8,000 words, more than the models here look at)."""

LABEL_CHARS_MAX = 200
"""A label is a name; what is longer is a text in the wrong column."""

LABELS_MAX = 5_000
"""Different labels: the output layer and the wire's records stay small."""

NUMERIC_LABELS_MAX = 200
"""Different numbers in a label column; more are quantities to predict (regression), not classes."""

INPUTS_MIN = 20
"""Different inputs: with fewer the four splits hold next to nothing."""

CATEGORIES_MAX = 50
"""Values of a categorical column that become input features, the most frequent of train; the others count as 'none of
these'."""

SAMPLE_BYTES = 512 * 1024
"""Beginning of a file from which separator, header and encoding are recognised."""

SAMPLE_ROWS = 2_000
"""Rows of it that are looked at."""

STATISTICS_ROWS = 100_000
"""Rows from which words per text and the like are estimated."""

BLOCK_ROWS = 20_000
"""Rows that are converted at a time."""

FILES_MAX = 1_000_000
"""Files in a folder of texts."""

WARNINGS_MAX = 20
"""Sentences in a profile."""
