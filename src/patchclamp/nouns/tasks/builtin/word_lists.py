"""Word lists of the built-in tasks. Generators keep the words that are one token for the tokenizer at hand."""

from __future__ import annotations


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((one, many) for one, many in (pair.split("/") for pair in text.split()))


MEN: tuple[str, ...] = _list(
    "John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Steven "
    "Paul Andrew Joshua Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric "
    "Jonathan Stephen Larry Justin Scott Benjamin Samuel Frank Gregory Raymond Patrick Jack Dennis Jerry Tyler "
    "Aaron Henry Adam Peter Nathan Walter Harold Kyle Carl Arthur Roger Lawrence Albert Bruce Tom Simon Martin "
    "Luke Oliver Philip Howard Fred Harry Sam Max Leo Ben Alan Keith Ralph Roy Louis Bobby Johnny Ethan "
    "Noah Oscar Hugo Felix Isaac Neil Ian Tim Jim Bob Mike Steve Dave Joe Ken Don Ron Greg Tony Andy"
)
WOMEN: tuple[str, ...] = _list(
    "Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty Margaret Sandra "
    "Ashley Kimberly Emily Donna Michelle Carol Amanda Dorothy Melissa Deborah Stephanie Rebecca Sharon Laura "
    "Cynthia Kathleen Amy Angela Shirley Anna Brenda Pamela Emma Nicole Helen Samantha Katherine Christine Rachel "
    "Carolyn Janet Catherine Maria Heather Diane Ruth Julie Olivia Joyce Kelly Christina Joan Evelyn Lauren Judith "
    "Megan Andrea Alice Jean Sophia Claire Jane Kate Lucy Julia Eva Martha Lily Ella Mia Zoe Hannah Clara Diana "
    "Elena Sara Ann Anne Marie Ellen Alison Caroline Elaine Frances Gloria Irene Joanna Lillian Louise Miriam "
    "Monica Nina Rosa Sally Sophie Sylvia Teresa Vera"
)
PLACES: tuple[str, ...] = _list(
    "store garden restaurant school hospital office house station park library museum market beach church theater "
    "bakery farm gym harbor airport castle factory"
)
GIFTS: tuple[str, ...] = _list(
    "ring kiss bone basketball computer necklace drink snack book letter flower ticket key cake gift map watch "
    "camera guitar pen bottle candle bag coin picture card box hat lamp radio"
)
SPANS_OF_TIME: tuple[str, ...] = _list(
    "war plan contract siege project campaign trial alliance program expedition conflict drought voyage "
    "construction negotiation rebellion revolution strike treaty study crisis famine occupation partnership "
    "journey mission marriage regime dispute truce investigation reign survey debate dynasty blockade boycott "
    "collaboration confrontation competition consultation cooperation dictatorship domination embargo epidemic "
    "experiment exploration feud friendship growth hostility improvement insurgency invasion migration "
    "movement operation plague process prosperity pursuit quest reform restoration riot settlement struggle "
    "tour tradition transition uprising work administration attack test training search"
)
# Singular and plural. Beings and things that can stand near one another.
NOUNS: tuple[tuple[str, str], ...] = _pairs(
    "boy/boys girl/girls dog/dogs cat/cats teacher/teachers student/students doctor/doctors nurse/nurses "
    "farmer/farmers driver/drivers painter/painters writer/writers author/authors actor/actors king/kings "
    "queen/queens soldier/soldiers officer/officers lawyer/lawyers judge/judges scientist/scientists "
    "engineer/engineers friend/friends brother/brothers sister/sisters neighbor/neighbors guest/guests "
    "player/players singer/singers worker/workers manager/managers leader/leaders child/children man/men "
    "woman/women bird/birds horse/horses tree/trees flower/flowers car/cars truck/trucks boat/boats ship/ships "
    "house/houses table/tables chair/chairs window/windows door/doors wall/walls bridge/bridges road/roads "
    "river/rivers lake/lakes book/books letter/letters box/boxes key/keys bottle/bottles picture/pictures "
    "lamp/lamps clock/clocks plate/plates cup/cups apple/apples hat/hats shoe/shoes tower/towers "
    "building/buildings store/stores hotel/hotels school/schools church/churches garden/gardens field/fields "
    "train/trains plane/planes bus/buses bike/bikes island/islands hill/hills rock/rocks stone/stones "
    "computer/computers phone/phones camera/cameras machine/machines engine/engines guitar/guitars "
    "customer/customers artist/artists pilot/pilots hunter/hunters prince/princes tourist/tourists "
    "senator/senators director/directors secretary/secretaries"
)
COLORS: tuple[str, ...] = (
    "red",
    "blue",
    "green",
    "yellow",
    "black",
    "white",
    "brown",
    "purple",
    "pink",
    "gray",
)
THINGS: tuple[str, ...] = _list(
    "pencil necklace lighter book cup pen plate ring bracelet keychain notebook mug ball bag hat box car chair shoe "
    "shirt coat lamp clock phone bottle bowl spoon fork knife key coin candle ribbon button toy doll kite balloon "
    "guitar drum blanket pillow towel basket brush comb mirror umbrella envelope stamp"
)
GOOD: tuple[str, ...] = _list(
    "wonderful excellent amazing fantastic brilliant superb delightful beautiful great lovely perfect outstanding "
    "impressive charming enjoyable remarkable incredible marvelous pleasant magnificent awesome stunning splendid "
    "exceptional fabulous terrific good nice thrilling inspiring fascinating refreshing satisfying elegant"
)
BAD: tuple[str, ...] = _list(
    "terrible awful horrible dreadful boring disappointing bad poor dull ugly disgusting pathetic mediocre annoying "
    "tedious unpleasant miserable lousy ridiculous stupid useless worthless appalling nasty weak frustrating bland "
    "inferior painful depressing irritating offensive tasteless hopeless"
)
