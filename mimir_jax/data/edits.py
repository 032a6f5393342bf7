"""Other versions of a text, which a model scores beside the text itself."""


def lowercase(text: str) -> str:
    """Without capitals, as attack `lowercase` compares it with the original.

    Carlini et al., Extracting Training Data from Large Language Models, 2021, arXiv:2012.07805.
    """
    return text.lower()
