// Prompts of the speculation bench. Texts are our own.
#pragma once

#include <array>
#include <string_view>
#include <vector>

namespace troupe::api {

struct bench_prompts {
  std::string_view workload;
  std::vector<std::string_view> prompts;
};

inline const std::array<bench_prompts, 5> speculation_prompts = {{
    {"edit",
     {"Copy the following text, but write \"harbour\" wherever it says \"port\". Change nothing "
      "else.\n\n"
      "The old port lies behind the mole, and every morning the boats leave the port before the "
      "sun is up. "
      "The men who work in the port know the tides by heart. When the wind comes from the west the "
      "port is "
      "closed, and the boats wait behind the mole until the sea is calm again. In the evening the "
      "market "
      "beside the port sells what the boats have brought, and the people of the town come down to "
      "buy.",
      "Repeat this list, sorted as it is, with every price followed by the word euro:\n\n"
      "- bread of rye, 500 grams: 3.20\n- bread of wheat, 500 grams: 2.90\n- butter, 250 grams: "
      "2.40\n"
      "- cheese from the valley, 200 grams: 4.10\n- cheese from the mountain, 200 grams: 5.60\n"
      "- milk, one litre: 1.30\n- milk, two litres: 2.50\n- eggs, six pieces: 2.20\n- eggs, ten "
      "pieces: 3.40\n"
      "- honey from the valley, 250 grams: 6.50\n- honey from the mountain, 250 grams: 7.80\n",
      "Write this letter again with correct spelling and without any other change:\n\n"
      "Dear Mrs Larsen,\n\nthank you for your leter of the third of May. We have recieved the "
      "parcel with the "
      "two lamps and the table. One of the lamps was brocken when it arrived, and we ask you to "
      "send us "
      "another one. The table is in good order. We will pay the bill for the table and for one "
      "lamp within "
      "fourteen days, and the bill for the other lamp as soon as it has arrived.\n\nWith kind "
      "regards,\n"
      "Peter Holm"}},
    {"summary",
     {"Summarize the following report, quoting its most important sentences:\n\n"
      "The bridge over the river was closed on Monday after inspectors found cracks in two of its "
      "bearings. "
      "The city expects the repair to take six weeks and to cost about two million. Until then, "
      "buses take "
      "the road along the northern bank, which adds twelve minutes to the way. Cyclists and people "
      "on foot "
      "may use the railway bridge, where a lane has been marked. The bearings were last changed "
      "thirty years "
      "ago. The inspectors had warned two years ago that they would have to be replaced soon, but "
      "the money "
      "was used for the new tunnel. The mayor said that safety comes first and that the tunnel had "
      "been "
      "needed as well.",
      "Give the key facts of this text, one a line, in the words of the text:\n\n"
      "Honey bees live in colonies of up to sixty thousand insects. A colony has one queen, who "
      "lays up to "
      "two thousand eggs a day in early summer. The workers are all female. A worker that hatches "
      "in summer "
      "lives about six weeks: three in the hive, where she cleans cells, feeds larvae and builds "
      "combs, and "
      "three outside, where she collects nectar, pollen and water. A worker that hatches in autumn "
      "lives "
      "until spring, since she neither feeds larvae nor flies much. For one jar of honey the "
      "workers of a "
      "colony fly a distance that equals more than one way around the earth.",
      "What does this announcement say? Answer with its own sentences.\n\n"
      "From the first of March the library opens at nine in the morning and closes at eight in the "
      "evening. "
      "On Saturdays it opens at ten and closes at four. Books can be borrowed for four weeks, "
      "films for one "
      "week. Whoever returns a book late pays twenty cents a day. The reading room on the second "
      "floor stays "
      "closed until the end of April, because the windows are being replaced. Children under the "
      "age of "
      "fourteen do not pay. A new card costs five euros, and the old cards stay valid until the "
      "end of the "
      "year."}},
    {"code repair",
     {"This Python function should return the average of a list, but it fails for an empty list. "
      "Write the "
      "whole file again with the mistake repaired.\n\n```python\ndef average(values):\n    total = "
      "0\n"
      "    for value in values:\n        total = total + value\n    return total / "
      "len(values)\n\n\n"
      "def largest(values):\n    result = values[0]\n    for value in values:\n        if value > "
      "result:\n"
      "            result = value\n    return result\n\n\ndef smallest(values):\n    result = "
      "values[0]\n"
      "    for value in values:\n        if value < result:\n            result = value\n    "
      "return result\n"
      "\n\ndef spread(values):\n    return largest(values) - smallest(values)\n```\n",
      "Rename the variable x to count in this program and print the whole program.\n\n```c\n"
      "#include <stdio.h>\n\nint main(void) {\n    int x = 0;\n    int letter;\n"
      "    while ((letter = getchar()) != EOF) {\n        if (letter == '\\n') {\n            x = "
      "x + 1;\n"
      "        }\n    }\n    if (x == 1) {\n        printf(\"one line\\n\");\n    } else {\n"
      "        printf(\"%d lines\\n\", x);\n    }\n    return 0;\n}\n```\n",
      "Add a method named clear, which sets the total to zero, to this class and show the whole "
      "class.\n\n"
      "```python\nclass Counter:\n    def __init__(self, start):\n        self.total = start\n"
      "        self.steps = 0\n\n    def add(self, amount):\n        self.total = self.total + "
      "amount\n"
      "        self.steps = self.steps + 1\n\n    def subtract(self, amount):\n"
      "        self.total = self.total - amount\n        self.steps = self.steps + 1\n\n"
      "    def average(self):\n        if self.steps == 0:\n            return 0\n"
      "        return self.total / self.steps\n```\n"}},
    {"prose",
     {"Tell a story about a lighthouse keeper who finds a letter in a bottle.",
      "Explain to a child why the sky is blue and why the evening sky is red.",
      "Describe how a small town prepares for its yearly market."}},
    // What tools that call models ask for: nearly the same again, with answers that no prompt has.
    {"similar",
     {"Write a Python program that reads the file orders.csv and prints the sum of the column "
      "price.",
      "Write a Python program that reads the file stock.csv and prints the sum of the column "
      "weight.",
      "Write a Python program that reads the file trips.csv and prints the sum of the column "
      "distance.",
      "Write a Python program that reads the file people.csv and prints the sum of the column age.",
      "Write a Python program that reads the file bills.csv and prints the sum of the column "
      "total.",
      "Write a Python program that reads the file rooms.csv and prints the sum of the column "
      "area."}},
}};

}  // namespace troupe::api
