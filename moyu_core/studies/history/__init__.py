"""History-related activation uncertainty: which neurons a token activates, depending on what came before it.

    requests -> texts (draws of histories, on token ids) -> grid (probe x history) -> two_way, flips
                                                         -> ladder, drift, predictor
                                                         -> study (the run)

`requests` is free of torch; import the other modules where they are needed.
"""
