"""What each figure shows, in a line, by its name; apart from how it is drawn, which takes torch."""

TITLES = {
    "1": "Figure 1: map of embeddings, with attacked images placed on it",
    "2": "Figure 2: the framework, drawn from the objects of a recipe",
    "3": "Figure 3: accuracy against the number of prototypes",
    "4": "Figure 4: retrieval by embedding, for clean and attacked queries",
    "modes": "accuracy of each mode, clean and in the worst case",
    "gallery": "attacked images, of the weakest modes first",
    "prototypes": "prototypes of each class against epochs",
    "usage": "how images are shared out over the prototypes of their class",
    "usage-over-time": "how training examples were shared out over prototypes, against epochs",
    "agreement": "prototypes against true modes, with NMI and purity",
    "nearest": "the images nearest to each prototype",
    "transitions": "from which prototype or mode to which an attack moves images",
    "eps": "accuracy against the radius of the attack",
    "steps": "accuracy against the steps of the attack",
    "curves": "training: loss and held-out accuracy against epochs",
}
