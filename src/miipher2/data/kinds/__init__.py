"""The kinds of degradation, siblings by what they do to a recording; `degradations.KINDS` lists them."""
