"""Every record that crosses a wire, one file per conversation.

    base         Record, names, Epoch, Key: what all conversations share
    topics       what a user publishes
    tasks        what a worker is asked to do
    commands     what is asked of the ledger
    ledger       what the ledger says: entries and events
    leases       beats, offers, answers, orders, receipts
    results      what subscribers see
    judgement    evidence, recommendation, verdict, champion
    trust        what checks of a worker's claims have come to
    studies      what trials of a study tell each other
    graph        the specializations
    models       models that people push, and base models
    artifacts    manifests
    services     hello, questions and their answers

Records are frozen and checked once, when the codec makes them from bytes; inside, nobody checks again.
"""
