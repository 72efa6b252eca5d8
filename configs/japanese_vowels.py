"""JapaneseVowels: which of nine speakers said /ae/? 270 training, 370 test utterances.

    python -m flax_sepconv.training --config configs/japanese_vowels.py

Expected: about 30 s on two busy cores; test accuracy 0.990. The weights evaluated are the moving
average at the last step; no validation split is kept out.

Seeds 0, 1, 2, 3, 4 (--config.train.seed=N): test accuracy 0.9865, 0.9919, 0.9892, 0.9919, 0.9892,
mean 0.9897 (5, 3, 4, 3, 4 errors of 370). The same five seeds had been run three times before:
with masks instead of lengths 0.9892, 0.9919, 0.9919, 0.9919, 0.9892, mean 0.9908, with XLA's
lowerings 0.9865, 0.9919, 0.9892, 0.9919, 0.9919, mean 0.9903, and, until then unseen, when initial
weights were not yet projected: 0.9892, 0.9919, 0.9919, 0.9919, 0.9892, mean 0.9908. Nothing was
changed on account of the scores; they differ by rounding alone, and show what that is worth.

How it was chosen: by splits of the 270 training utterances, which are in order of recording.
"Fifths" trains on four contiguous fifths of every speaker's utterances and scores the other one;
"thirds" trains on one contiguous third (10 a speaker) and scores the other two. This recipe has
0.989 by fifths and 0.970 by thirds. On the way there, by thirds: width 64 at a third of this
learning rate 0.933, width 128 0.956; with an offset per channel (augment.shift) of 0.2 also 0.969,
and with cropping 0.970. Lower than what they replaced: kernel 9 (0.93), whitened channels, dropout
0.4, label smoothing, white noise, depth multipliers 1 and 12 in the first layer. Such a split tells
1 % apart at best: among the last few settings the choice is partly chance.

Test accuracies seen before the recipe was fixed: one, 0.973, by a smoke run of the program with its
default settings (width 64, 20 epochs, no augmentation); it decided nothing.
"""

import ml_collections

from flax_sepconv.training.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.data.name = "JapaneseVowels"
    config.augment.crop = 0.2
    config.augment.shift = 0.3  # a speaker's offset on another day
    config.model.width = 128
    config.model.blocks = 3
    config.model.kernel_size = 3
    config.model.stem_multiplier = 4
    config.train.epochs = 80
    config.train.learning_rate = 3e-3
    config.train.warmup = 0.0625
    return config
