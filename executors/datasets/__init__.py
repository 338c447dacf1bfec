"""From a user's file to four splits: reading, column inference, examples, splitting.

    look        what is this path? (standard library only; also used at the door)
    reading     path or built-in -> Table        delimited, jsonlines, parquet, textfolder, builtin
    columns     Table -> which column is the label, which are the input
    examples    Table and choice -> examples with ids, labels, clusters
    splits      examples -> train, validation, holdout, audit: files with the same bytes every time

Data that can not be used ends in `mesh.errors.DataRefused` with one sentence: expected, found, what to do, and the row
as a person counts (the header is row 1). docs/data.md tells the rules to users. Nothing in this file is heavy; the
readers need numpy and pyarrow and run in a child process only.
"""
