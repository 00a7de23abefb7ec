from world.attributes import Attributes
def caption(attributes: Attributes, rng) -> str:
    return " ".join(attributes.values())
