"""More families of built-in stories: savings, a bus, a game, a water tank.

`stepjepa.data.problem_text` explains the templates; these stories count things that cannot be packed in boxes, so
their products come from rates (an amount per day, per hour, per bucket).
"""

from stepjepa.data.problem_text import (
    DOLLARS,
    GAIN,
    GAIN_MORE,
    LOSS,
    PERSON_DISTRACTORS,
    PLACE_DISTRACTORS,
    SCALE,
    Ending,
    Family,
    Wording,
)

SAVINGS = Family(
    key="savings",
    casts=(("", (DOLLARS,)),),
    start=("{Sub} has {k} dollars.", "{Sub} has saved {k} dollars.", "{Sub} opens {his} purse and counts {k} dollars."),
    start_product=Wording(
        ("{Sub} works {a} hours for {b} dollars an hour.", "{Sub} saves {b} dollars a week for {a} weeks."),
        ("{Sub} has {eq} {unit}.", "This brings {eq} {unit}."),
    ),
    single={
        "add": Wording(
            (
                "{Sub} earns {k} dollars for walking a dog.",
                "{friend} gives {name} {k} dollars.",
                "Then {sub} finds {k} dollars in a coat.",
                "{Sub} sells an old bike for {k} dollars.",
            ),
            GAIN + GAIN_MORE,
        ),
        "subtract": Wording(
            (
                "{Sub} spends {k} dollars on food.",
                "Then {sub} pays {k} dollars for a ticket.",
                "{Sub} lends {friend} {k} dollars.",
                "A new book costs {him} {k} dollars.",
            ),
            (*LOSS, "Paying this, {sub} keeps {eq} {unit}."),
        ),
        "multiply": Wording(
            (
                "By summer, {sub} has {times} as much money.",
                "{Sub} invests all the money and ends up with {times} as much.",
            ),
            SCALE,
        ),
        "divide": Wording(
            (
                "{Sub} keeps only {fraction} of the money.",
                "{Sub} splits the money equally among {k} people, and {name} is one of them.",
            ),
            ("One share is {eq} {unit}.", "{Sub} keeps {eq} {unit}."),
        ),
    },
    product={
        "add": Wording(
            (
                "Then {sub} works {a} hours for {b} dollars an hour.",
                "{Sub} mows {a} lawns and gets {b} dollars for each.",
            ),
            ("The pay is {eq} {unit}.", "{Sub} earns {eq} {unit}."),
        ),
        "subtract": Wording(
            ("{Sub} buys {a} shirts for {b} dollars each.", "For {a} days, {sub} spends {b} dollars a day."),
            ("The cost is {eq} {unit}.", "{Sub} spends {eq} {unit}."),
        ),
    },
    ask=("How many dollars does {name} have now?", "How much money does {name} have in the end, in dollars?"),
    distractors=PERSON_DISTRACTORS,
    endings=(
        Ending(
            "divide",
            ("With all the money, {sub} buys tickets for {k} dollars each. How many does {name} get?",),
            ("{Sub} gets {eq} {unit}.", "The money is enough for {eq} {unit}."),
            ("ticket", "tickets"),
        ),
        Ending(
            "together",
            ("{friend} has {times} as much money as {name}. How many dollars do they have together?",),
            ("{friend} has {eq} {unit}.", "Together they have {eq} {unit}."),
        ),
    ),
)

BUS = Family(
    key="bus",
    casts=tuple((vehicle, (("passenger", "passengers"),)) for vehicle in ("bus", "train", "ferry", "tram")),
    start=("{Sub} leaves with {k} passengers.", "{Sub} carries {k} passengers.", "{Sub} sets off with {k} passengers."),
    start_product=Wording(
        ("{Sub} has {a} rows with {b} passengers in each row.", "{Sub} leaves with {a} groups of {b} passengers."),
        ("That is {eq} {unit}.", "At first there are {eq} {unit} on board."),
    ),
    single={
        "add": Wording(
            (
                "At the next stop, {k} passengers get on.",
                "Then {sub} picks up {k} more passengers.",
                "A class of {k} students gets on.",
            ),
            ("{Sub} now has {eq} {unit}.", "That makes {eq} {unit}.", "With them there are {eq} {unit} on board."),
        ),
        "subtract": Wording(
            (
                "At the next stop, {k} passengers get off.",
                "Then {k} passengers leave.",
                "{Sub} drops off {k} passengers at the market.",
            ),
            ("This leaves {eq} {unit}.", "{Sub} has {eq} {unit} left.", "Without them there are {eq} {unit}."),
        ),
        "multiply": Wording(
            ("In the city, the number of passengers grows to {times} what it was.",),
            ("{Sub} now has {eq} {unit}.", "That gives {eq} {unit}."),
        ),
        "divide": Wording(
            ("At the harbor, only {fraction} of the passengers stay on board.",),
            ("Those who stay are {eq} {unit}.", "{Sub} keeps {eq} {unit}."),
        ),
    },
    product={
        "add": Wording(
            ("At each of the next {a} stops, {b} passengers get on.", "Then {a} families of {b} get on."),
            ("{Sub} picks up {eq} {unit}.", "That is {eq} {unit} more."),
        ),
        "subtract": Wording(
            ("At each of the next {a} stops, {b} passengers get off.", "Then {a} groups of {b} get off."),
            ("{Sub} loses {eq} {unit}.", "That is {eq} {unit} fewer."),
        ),
    },
    ask=("How many passengers are on board now?", "How many passengers are there in the end?"),
    distractors=(
        *PLACE_DISTRACTORS[3:4],
        "The trip takes {x} minutes.",
        "The driver has worked for {x} years.",
        "{friend}, the driver, is {age} years old.",
        "The line has {x} stops in all.",
        "The line was built {x} years ago.",
    ),
    endings=(
        Ending(
            "multiply",
            ("Each passenger pays {k} dollars. How many dollars do they pay in all?",),
            ("They pay {eq} {unit}.", "The fares add up to {eq} {unit}."),
            DOLLARS,
        ),
    ),
)

GAME = Family(
    key="game",
    casts=(("", (("point", "points"),)),),
    start=("{Sub} begins a game with {k} points.", "{Sub} scores {k} points in the first round."),
    start_product=Wording(
        ("{Sub} wins {a} rounds worth {b} points each.", "{Sub} hits a target {a} times for {b} points each."),
        ("The score is {eq} {unit}.", "{Sub} has {eq} {unit}."),
    ),
    single={
        "add": Wording(
            ("{Sub} scores {k} more points.", "A bonus gives {him} {k} points.", "Then {sub} wins {k} points."),
            (*GAIN, "The score rises to {eq} {unit}."),
        ),
        "subtract": Wording(
            ("{Sub} loses {k} points.", "A foul costs {him} {k} points.", "Then {friend} takes {k} points away."),
            (*LOSS, "The score falls to {eq} {unit}."),
        ),
        "multiply": Wording(
            (
                "A lucky card makes {whose} score {times} as high.",
                "In the last round, {sub} gets {times} as many points.",
            ),
            ("The score is now {eq} {unit}.", *SCALE[:2]),
        ),
        "divide": Wording(
            ("A bad card leaves {him} with only {fraction} of the points.",),
            ("The score is now {eq} {unit}.", "{Sub} keeps {eq} {unit}."),
        ),
    },
    product={
        "add": Wording(
            ("{Sub} finds {a} stars worth {b} points each.", "Then {sub} wins {b} points in each of {a} rounds."),
            ("That is {eq} {unit} more.", "{Sub} wins {eq} {unit}."),
        ),
        "subtract": Wording(
            ("{Sub} makes {a} mistakes that cost {b} points each.", "Then {sub} loses {b} points {a} times."),
            ("{Sub} loses {eq} {unit}.", "That is {eq} {unit} fewer."),
        ),
    },
    ask=("How many points does {name} have now?", "What is {name}'s final score?"),
    distractors=(
        *PERSON_DISTRACTORS[:3],
        "The game lasts {x} minutes.",
        "About {x} people watch.",
        "{friend} scored {x} points last week.",
    ),
    endings=(
        Ending(
            "divide",
            ("One prize costs {k} points, and {sub} spends all points. How many prizes does {name} get?",),
            ("{Sub} gets {eq} {unit}.", "The points buy {eq} {unit}."),
            ("prize", "prizes"),
        ),
        Ending(
            "together",
            ("{friend} has {times} as many points as {name}. How many points do the two have together?",),
            ("{friend} has {eq} {unit}.", "Together they have {eq} {unit}."),
        ),
    ),
)

TANK = Family(
    key="tank",
    casts=tuple((vessel, (("liter", "liters"),)) for vessel in ("tank", "pool", "barrel", "pond")),
    start=("{Sub} holds {k} liters of water.", "{Sub} starts the day with {k} liters of water."),
    start_product=Wording(
        ("{Sub} is filled with {a} buckets of {b} liters each.", "{Sub} fills at {b} liters an hour for {a} hours."),
        ("{Sub} holds {eq} {unit}.", "That is {eq} {unit}."),
    ),
    single={
        "add": Wording(
            ("Rain adds {k} liters.", "{friend} pours in {k} liters.", "Then {sub} gets {k} more liters."),
            ("{Sub} now holds {eq} {unit}.", "That makes {eq} {unit}.", "The water rises to {eq} {unit}."),
        ),
        "subtract": Wording(
            ("{friend} takes out {k} liters.", "Then {k} liters leak out.", "{Sub} loses {k} liters in the sun."),
            ("This leaves {eq} {unit}.", "{Sub} has {eq} {unit} left.", "The water falls to {eq} {unit}."),
        ),
        "multiply": Wording(
            ("After a storm, there is {times} as much water in {name}.",),
            ("{Sub} now holds {eq} {unit}.", "That gives {eq} {unit}."),
        ),
        "divide": Wording(
            ("After a dry week, only {fraction} of the water remains.",),
            ("What remains is {eq} {unit}.", "{Sub} keeps {eq} {unit}."),
        ),
    },
    product={
        "add": Wording(
            ("{friend} pours in {a} buckets of {b} liters each.", "A pump adds {b} liters an hour for {a} hours."),
            ("That is {eq} {unit} more.", "{Sub} gains {eq} {unit}."),
        ),
        "subtract": Wording(
            (
                "{friend} fills {a} cans with {b} liters each from {name}.",
                "For {a} hours, {b} liters an hour leak out.",
            ),
            ("{Sub} loses {eq} {unit}.", "That is {eq} {unit} fewer."),
        ),
    },
    ask=("How many liters are in {name} now?", "How many liters of water are there in the end?"),
    distractors=(
        *PLACE_DISTRACTORS[3:4],
        "{Sub} is {x} years old.",
        "A fence of {x} meters stands around {name}.",
        "{friend} drinks {x} glasses of juice.",
        "The nearest river is {x} kilometers away.",
    ),
    endings=(
        Ending(
            "divide",
            ("All the water goes into cans of {k} liters each. How many cans are filled?",),
            ("The water fills {eq} {unit}.", "The number of cans is {eq} {unit}."),
            ("can", "cans"),
        ),
    ),
)
