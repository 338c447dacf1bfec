"""Consensus: the minds that weigh what was measured.

    evidence         per-item outcomes; how much of a claim another worker reproduced
    distributions    the few probability distributions that this needs
    bootstrap        the interval of a mean over clusters, by resampling
    comparison       two models on the same items: effect, interval, exact test, betting, alpha spending
    recommendation   keep the champion, take the evolver, take the reinventor; why, and what would change it
    rounds           a topic's records so far: what consensus has to do next
    gate             KPI policies as data; the verdict, KPI by KPI
    champions        the next champion's record after a verdict

No await, no clock, no log, no bus: values in, decisions out.
"""
