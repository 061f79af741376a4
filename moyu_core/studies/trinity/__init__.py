"""The impossible trinity: quality kept, real speed, and where it holds, for every method.

    texts (evaluation text) -> forward (masked pass) -> quality -> operating (smallest density within a budget)
    reading (a task in generation)                   -> study (the run `trinity`)
    speed (decode loop, dense and sparse in turn)    -> the run `speed`, of one machine
    families (every architecture of the table)       -> the run `families`
    chat (both models side by side, streamed)        -> the run `chat`

`requests` and `operating` are free of torch; import the other modules where they are needed.
"""
