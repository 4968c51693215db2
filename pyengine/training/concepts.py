"""The things that the shipped model draws.

A small network trained for hours rather than days learns a few things well or
many things badly.  This list is the first choice: concrete things that people
ask for by name.  Flags, skin tones, clock faces, keycaps, letters and the
variants of people's gestures are left out.  Widen it when there is compute.
"""

HEARTS = """red heart|orange heart|yellow heart|green heart|blue heart|light blue heart
purple heart|brown heart|grey heart|white heart|pink heart|broken heart|sparkling heart
heart with arrow|heart with ribbon|heart on fire|two hearts"""

SHAPES = """red circle|orange circle|green circle|blue circle|purple circle|black circle
red square|yellow square|green square|blue square|star|glowing star"""

FACES = """grinning face|beaming face with smiling eyes|face with tears of joy
smiling face with heart-eyes|smiling face with sunglasses|smiling face with halo
smiling face with horns|winking face|thinking face|sleeping face|crying face|loudly crying face
angry face|face with medical mask|nerd face|cowboy hat face|partying face|cold face|hot face
exploding head|star-struck|zany face|face blowing a kiss|clown face|alien|robot|ghost|skull
pile of poo|ogre|smiling cat with heart-eyes|sun with face|money-mouth face"""

ANIMALS = """dog face|cat face|mouse|rabbit face|fox|bear|panda|koala|tiger face|lion|cow face
pig face|frog|monkey face|chicken|bird|baby chick|duck|eagle|owl|bat|wolf|horse face|unicorn
honeybee|butterfly|snail|lady beetle|spider web|snake|octopus|lobster|crab|tropical fish|fish
dolphin|spouting whale|whale|shark|crocodile|tiger|zebra|gorilla|elephant|rhinoceros|camel|giraffe
kangaroo|pig|deer|dog|cat|rooster|parrot|swan|flamingo|hedgehog|dragon|dragon face|T-Rex"""

PLANTS = """bouquet|cherry blossom|rose|hibiscus|sunflower|tulip|seedling|evergreen tree
deciduous tree|palm tree|cactus|four leaf clover|maple leaf|mushroom|Christmas tree"""

FOOD = """grapes|watermelon|tangerine|lemon|banana|pineapple|red apple|green apple|pear|peach
cherries|strawberry|blueberries|kiwi fruit|tomato|coconut|potato|carrot|ear of corn|hot pepper
broccoli|bread|croissant|baguette bread|pancakes|cheese wedge|meat on bone|hamburger|french fries
pizza|hot dog|sandwich|taco|egg|cooking|popcorn|ice cream|soft ice cream|doughnut|cookie
birthday cake|cupcake|pie|chocolate bar|candy|lollipop|honey pot|glass of milk|hot beverage|teapot
wine glass|cocktail glass|cup with straw"""

PLACES = """house|house with garden|castle|office building|hospital|school|church|tent
ferris wheel|fountain|volcano|mount fuji|desert island|Statue of Liberty|Tokyo tower|camping"""

VEHICLES = """bullet train|bus|fire engine|police car|taxi|racing car|tractor|motorcycle|bicycle
skateboard|sailboat|ship|airplane|helicopter|rocket|flying saucer|parachute"""

WEATHER = """full moon|crescent moon|cloud|sun behind cloud|cloud with rain
cloud with lightning and rain|tornado|rainbow|umbrella|high voltage|snowflake|snowman|fire|droplet
water wave|ringed planet|globe showing Europe-Africa"""

SPORTS = """soccer ball|basketball|american football|tennis|volleyball|pool 8 ball|trophy
1st place medal|kite|game die|video game|teddy bear"""

OBJECTS = """crown|top hat|graduation cap|glasses|sunglasses|t-shirt|dress|running shoe
high-heeled shoe|backpack|ring|gem stone|bell|guitar|trumpet|drum|headphone|radio|microphone
musical note|mobile phone|telephone|laptop|television|light bulb|candle|open book|books|newspaper
money bag|pencil|artist palette|scissors|locked|key|hammer|gear|magnet|bow and arrow|shield|dagger
bomb|telescope|pill|syringe|door|bed|chair|toilet|alarm clock|hourglass done|watch|balloon
party popper|wrapped gift|jack-o-lantern|fireworks|crystal ball|trophy|warning|stop sign
check mark button|thumbs up|flexed biceps|eyes|brain|tooth|kiss mark"""

GROUPS = {
    "hearts": HEARTS,
    "shapes": SHAPES,
    "faces": FACES,
    "animals": ANIMALS,
    "plants": PLANTS,
    "food": FOOD,
    "places": PLACES,
    "vehicles": VEHICLES,
    "weather": WEATHER,
    "sports": SPORTS,
    "objects": OBJECTS,
}


def labels(group: str) -> list[str]:
    """The labels of one group, in the order of the list."""
    return GROUPS[group].replace("\n", "|").split("|")


CONCEPTS: tuple[str, ...] = tuple(dict.fromkeys(name for group in GROUPS for name in labels(group)))
