"""Families of built-in stories about things: a collection, a shop's stock, a runner's plan.

`stepjepa.data.problem_text` explains the templates; `stepjepa.data.problem_stories_more` holds the other families.
"""

from stepjepa.data.problem_text import (
    DOLLARS,
    GAIN,
    GAIN_MORE,
    HOLD,
    LOSS,
    LOSS_MORE,
    PERSON_DISTRACTORS,
    PLACE_DISTRACTORS,
    SCALE,
    SHARE,
    Ending,
    Family,
    Wording,
    plain_units,
)

COLLECTION = Family(
    key="collection",
    casts=(
        (
            "",
            plain_units(
                "marble sticker seashell stamp coin bead button postcard card pencil toy_car balloon ribbon "
                "crayon eraser bottle_cap feather magnet pebble puzzle_piece"
            ),
        ),
    ),
    start=(
        "{Sub} has {k} {obj}.",
        "{Sub} starts with {k} {obj}.",
        "{Sub} keeps a collection of {k} {obj}.",
        "At first, {sub} has {k} {obj}.",
    ),
    start_product=Wording(
        ("{Sub} has {a} {boxes} with {b} {obj} in each {box}.", "{Sub} owns {a} {boxes} of {b} {obj} each."), HOLD
    ),
    single={
        "add": Wording(
            (
                "{Sub} finds {k} more {obj}.",
                "{friend} gives {name} {k} {obj}.",
                "Then {sub} buys {k} {obj}.",
                "On {his} birthday, {sub} gets {k} more {obj}.",
                "{Sub} wins {k} {obj} in a game.",
            ),
            GAIN + GAIN_MORE,
        ),
        "subtract": Wording(
            (
                "{Sub} gives {k} {obj} to {friend}.",
                "Then {sub} loses {k} of the {obj}.",
                "{Sub} sells {k} {obj}.",
                "{friend} takes {k} {obj} away.",
                "{Sub} throws out {k} broken {obj}.",
            ),
            LOSS + LOSS_MORE,
        ),
        "multiply": Wording(
            (
                "A month later, {sub} has {times} as many {obj}.",
                "Then {whose} collection grows to {times} its size.",
                "{Sub} trades the {obj} for {times} as many {obj}.",
            ),
            SCALE,
        ),
        "divide": Wording(
            (
                "{Sub} sorts all {obj} into {k} equal piles and keeps only one pile.",
                "{Sub} shares all {obj} equally among {k} children, and {name} is one of them.",
                "{Sub} keeps only {fraction} of the {obj}.",
            ),
            SHARE,
        ),
    },
    product={
        "add": Wording(
            (
                "{Sub} buys {a} {boxes} with {b} {obj} in each.",
                "{friend} brings {him} {a} {boxes} of {b} {obj} each.",
                "Then {sub} gets {b} {obj} a day for {a} days.",
            ),
            ("That is {eq} {unit} more.", "The new ones are {eq} {unit}.", "{Sub} gets {eq} {unit}."),
        ),
        "subtract": Wording(
            (
                "{Sub} gives {b} {obj} to each of {a} friends.",
                "{Sub} fills {a} {boxes} with {b} {obj} each and mails them away.",
                "For {a} days, {sub} loses {b} {obj} a day.",
            ),
            ("{Sub} loses {eq} {unit}.", "That is {eq} {unit} fewer.", "The ones that go are {eq} {unit}."),
        ),
    },
    ask=(
        "How many {obj} does {name} have now?",
        "How many {obj} does {name} have in the end?",
        "What is the number of {obj} that {name} has now?",
    ),
    distractors=PERSON_DISTRACTORS,
    endings=(
        Ending(
            "multiply",
            (
                "{Sub} sells all the {obj} for {k} dollars each. How many dollars does {name} get?",
                "Each of the {obj} is worth {k} dollars. How many dollars are they worth?",
            ),
            ("The money is {eq} {unit}.", "At this price, that is {eq} {unit}."),
            DOLLARS,
        ),
        Ending(
            "divide",
            (
                "{Sub} packs all the {obj} into bags of {k}. How many bags does {name} need?",
                "{Sub} puts {k} {obj} into each bag until none are left. How many bags does {name} fill?",
            ),
            ("{Sub} fills {eq} {unit}.", "The number of bags is {eq} {unit}."),
            ("bag", "bags"),
        ),
        Ending(
            "together",
            (
                "{friend} has {times} as many {obj} as {name} has now. How many do they have together?",
                "Now {friend} has {times} as many as {name}. How many {obj} do the two have in all?",
            ),
            ("{friend} has {eq} {unit}.", "Together they have {eq} {unit}."),
        ),
    ),
    boxes=(("box", "boxes"), ("bag", "bags"), ("jar", "jars"), ("pack", "packs")),
)

SHOP = Family(
    key="shop",
    casts=(
        ("bakery", plain_units("muffin roll pie cake bagel cookie")),
        ("flower shop", (*plain_units("rose tulip orchid"), ("daisy", "daisies"))),
        ("toy store", plain_units("puzzle kite robot doll board_game")),
        ("fruit stand", (*plain_units("melon apple pear lemon"), ("peach", "peaches"))),
        ("bookstore", plain_units("novel comic notebook calendar")),
        ("hardware store", (*plain_units("hammer lamp ladder bucket"), ("brush", "brushes"))),
    ),
    start=(
        "{Sub} has {k} {obj} on its shelves.",
        "{Sub} opens in the morning with {k} {obj}.",
        "{Sub} has {k} {obj} for sale.",
    ),
    start_product=Wording(
        ("{Sub} has {a} {boxes} with {b} {obj} on each.", "{Sub} sets out {a} {boxes} of {b} {obj}."), HOLD
    ),
    single={
        "add": Wording(
            (
                "Then a truck delivers {k} more {obj}.",
                "{Sub} gets {k} more {obj} at noon.",
                "A customer brings back {k} {obj}.",
                "{Sub} adds {k} fresh {obj}.",
            ),
            (*GAIN, "The stock rises to {eq} {unit}.", "With these there are {eq} {unit} in the store."),
        ),
        "subtract": Wording(
            (
                "{friend} buys {k} {obj}.",
                "Before lunch, {sub} sells {k} of its {obj}.",
                "{Sub} throws away {k} damaged {obj}.",
                "{Sub} donates {k} {obj} to a school.",
            ),
            (*LOSS, "The stock falls to {eq} {unit}."),
        ),
        "multiply": Wording(
            (
                "For the holiday, {sub} raises its stock to {times} as many {obj}.",
                "The next day, {sub} has {times} as many {obj}.",
            ),
            SCALE[:1] + SCALE[2:] + ("The stock grows to {eq} {unit}.",),
        ),
        "divide": Wording(
            (
                "{Sub} splits all {obj} equally among {k} stores and is one of them.",
                "By evening, only {fraction} of the {obj} remain.",
            ),
            ("The store keeps {eq} {unit}.", "What remains is {eq} {unit}."),
        ),
    },
    product={
        "add": Wording(
            ("Then {a} {boxes} of {b} {obj} arrive.", "{Sub} orders {a} {boxes} with {b} {obj} on each."),
            ("The delivery is {eq} {unit}.", "That is {eq} {unit} more."),
        ),
        "subtract": Wording(
            ("Then {a} customers buy {b} {obj} each.", "For {a} hours, {sub} sells {b} {obj} an hour."),
            ("{Sub} sells {eq} {unit}.", "The sales are {eq} {unit}."),
        ),
    },
    ask=("How many {obj} are left in the end?", "How many {obj} does the store have now?"),
    distractors=PLACE_DISTRACTORS,
    endings=(
        Ending(
            "multiply",
            ("All the {obj} are then sold for {k} dollars each. How many dollars does this bring in?",),
            ("The sale brings in {eq} {unit}.", "The price of all is {eq} {unit}."),
            DOLLARS,
        ),
        Ending(
            "divide",
            ("The whole stock is packed into crates of {k}. How many crates are needed?",),
            ("It takes {eq} {unit}.", "The number of crates is {eq} {unit}."),
            ("crate", "crates"),
        ),
    ),
    boxes=(("tray", "trays"), ("cart", "carts"), ("rack", "racks")),
)

TRAINING = Family(
    key="training",
    casts=(("", (("kilometer", "kilometers"),)),),
    start=("{Sub} plans to run {k} kilometers this month.", "{Sub} writes a running plan of {k} kilometers."),
    start_product=Wording(
        ("{Sub} plans to run {b} kilometers a day for {a} days.", "{Sub} plans {a} runs of {b} kilometers each."),
        ("The plan is {eq} {unit}.", "{Sub} plans {eq} {unit}."),
    ),
    single={
        "add": Wording(
            ("The coach adds {k} kilometers.", "Then {sub} puts {k} more kilometers in the plan."),
            ("The plan is now {eq} {unit}.", "That makes {eq} {unit}.", "With these the plan has {eq} {unit}."),
        ),
        "subtract": Wording(
            (
                "On Monday, {sub} runs {k} of the kilometers.",
                "{Sub} crosses out {k} kilometers.",
                "Then {sub} runs {k} kilometers.",
            ),
            ("This leaves {eq} {unit}.", "{Sub} has {eq} {unit} left.", "The rest is {eq} {unit}."),
        ),
        "multiply": Wording(
            ("For a race, {sub} makes the plan {times} as long.",),
            ("The plan is now {eq} {unit}.", "That gives {eq} {unit}."),
        ),
        "divide": Wording(
            ("After an injury, {sub} keeps only {fraction} of the plan.",),
            ("The plan is now {eq} {unit}.", "{Sub} keeps {eq} {unit}."),
        ),
    },
    product={
        "add": Wording(
            ("The coach adds {a} runs of {b} kilometers each.",),
            ("That is {eq} {unit} more.", "The new runs are {eq} {unit}."),
        ),
        "subtract": Wording(
            (
                "For {a} days, {sub} runs {b} of the kilometers a day.",
                "Then {sub} finishes {a} runs of {b} kilometers.",
            ),
            ("{Sub} runs {eq} {unit}.", "The finished part is {eq} {unit}."),
        ),
    },
    ask=("How many kilometers are left to run?", "How many kilometers does {name}'s plan have now?"),
    distractors=(
        *PERSON_DISTRACTORS[:2],
        "{friend} ran {x} kilometers last month.",
        "The stadium has {x} seats.",
        "{Sub} listens to {x} songs on the way.",
        "It is {x} degrees outside.",
    ),
    endings=(
        Ending(
            "divide",
            ("{Sub} runs the rest in equal parts of {k} kilometers a day. How many days does {name} need?",),
            ("{Sub} needs {eq} {unit}.", "The rest takes {eq} {unit}."),
            ("day", "days"),
        ),
        Ending(
            "together",
            ("{friend} plans {times} as many kilometers as {name}. How many do both plan together?",),
            ("{friend} plans {eq} {unit}.", "Together they plan {eq} {unit}."),
        ),
    ),
)
