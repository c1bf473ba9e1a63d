"""Why the steps of heads other than GPT2LMHeadModel's run, and of the search for a pad token."""

_MASK = "an attention_mask, or no pad_token_id in the config"

DOES = {
    # ------------------------------------------------------------------------------------------ the pad token
    "ends_sync": (
        "The list [-1, 0] becomes a tensor of two places, which is copied from the host, and the host waits for the"
        " copy."
    ),
    "end_ids": (
        "Takes the last and the first id of each sequence: the config has a pad_token_id and no attention mask is"
        " passed, so transformers looks whether a mask may have been forgotten. An index by a list is a copy."
    ),
    "is_pad": "Compares those ids with pad_token_id.",
    "any_pad": "Is one of them the pad token? One boolean for the whole batch.",
    "pad_sync": "The host waits for that answer, in every pass, to print a warning once.",
    # ------------------------------------------------------------------------------------------ classification
    "score": (
        "GPT2ForSequenceClassification's head, without a bias: the scores of num_labels classes. It runs on every"
        " position, though one of each sequence is kept."
    ),
    "select": "The scores of the last position: a view.",
    "batch_indices": "Numbers the sequences, to choose one position of each.",
    "is_no_pad": "Compares the ids with pad_token_id: where there is text.",
    "non_pad_mask": "Those booleans as int32, which can be multiplied.",
    "token_indices": "Numbers the positions, as int32.",
    "places": "The number of each position where there is text, and 0 where there is padding.",
    "last_non_pad_token": "The largest of each sequence: where its last token is.",
    "pooled_logits": "Copies the scores of one position of each sequence: what the model returns.",
    "dropout [call]": "Dropout before the classifier. In inference it is the identity: a call in Python, no kernel.",
    "dropout": (
        "Dropout before the classifier, by a probability of its own: 0.1, whatever those of the config are. A boolean"
        " mask of what was kept is written for the backward pass."
    ),
    "classifier": "GPT2ForTokenClassification's head, with a bias: the scores of num_labels classes for each token.",
    # ------------------------------------------------------------------------------------------ two heads
    "multiple_choice_head": (
        "The call of GPT2SequenceSummary in Python, which scores the sequence as a whole: no kernel of its own."
    ),
    "multiple_choice_head.first_token": "A slice of the hidden states, of which only the shape is used: a view.",
    "multiple_choice_head.cls_index": (
        "The place of the last token, for each element of its vector: int64, since gather takes an index of the shape"
        " of what it gives."
    ),
    "multiple_choice_head.last_token": "Copies the last token's hidden state of each sequence.",
    "multiple_choice_head.squeeze": "Drops the dimension of one position: a view.",
    "multiple_choice_head.first_dropout": "Dropout before the projection. In inference it is the identity: a call.",
    "multiple_choice_head.summary": "Projects the last token's hidden state onto one score, with a bias.",
    "multiple_choice_head.activation": "The identity, unless summary_activation names a function: a call.",
    "multiple_choice_head.last_dropout": "The identity, unless summary_last_dropout is set: a call.",
    "squeeze": "Drops the dimension of one class: a view.",
}
REMOVED_BY = {
    "end_ids": _MASK,
    "ends_sync": _MASK,
    "is_pad": _MASK,
    "any_pad": _MASK,
    "pad_sync": _MASK,
}
