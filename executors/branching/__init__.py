"""From a topic's texts to branches: what `executors/kinds/branch.py` asks, one part per question.

    words       a text -> its words, of any script
    counting    texts -> vocabulary and TF-IDF (fitted on train only)
    projecting  TF-IDF -> truncated SVD: a router's vocabulary and components
    clusters    vectors -> centres: k-means, balanced while it is fitted
    proxies     would specialists of labelled texts help? cheap linear models, measured on validation
    bytegrams   the same for corpora: byte n-gram models
    choosing    how many branches, and the sentence that says why
    naming      names and keywords of the branches, from what tells their texts apart
    drift       does a router still fit new data?
    delivering  one dataset per branch

The router itself, which has to be read everywhere, stands in `executors/routing.py` and needs numpy alone. The recipe
is that of c-BTM (Gururangan et al., arXiv:2303.14177). Nothing in this file is heavy.
"""
