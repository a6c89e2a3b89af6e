// Prompts of the speculation bench: what people ask of each kind. All but the first three of a kind were written before any
// of them was decoded. Texts are our own.
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
     {"Copy the following text, but write \"harbour\" wherever it says \"port\". Change "
      "nothing "
      "else.\n\n"
      "The old port lies behind the mole, and every morning the boats leave the port before "
      "the "
      "sun is up. "
      "The men who work in the port know the tides by heart. When the wind comes from the "
      "west the "
      "port is "
      "closed, and the boats wait behind the mole until the sea is calm again. In the "
      "evening the "
      "market "
      "beside the port sells what the boats have brought, and the people of the town come "
      "down to "
      "buy.",
      "Repeat this list, sorted as it is, with every price followed by the word euro:\n\n"
      "- bread of rye, 500 grams: 3.20\n- bread of wheat, 500 grams: 2.90\n- butter, 250 "
      "grams: "
      "2.40\n"
      "- cheese from the valley, 200 grams: 4.10\n- cheese from the mountain, 200 grams: "
      "5.60\n"
      "- milk, one litre: 1.30\n- milk, two litres: 2.50\n- eggs, six pieces: 2.20\n- eggs, "
      "ten "
      "pieces: 3.40\n"
      "- honey from the valley, 250 grams: 6.50\n- honey from the mountain, 250 grams: "
      "7.80\n",
      "Write this letter again with correct spelling and without any other change:\n\n"
      "Dear Mrs Larsen,\n\nthank you for your leter of the third of May. We have recieved "
      "the "
      "parcel with the "
      "two lamps and the table. One of the lamps was brocken when it arrived, and we ask you "
      "to "
      "send us "
      "another one. The table is in good order. We will pay the bill for the table and for "
      "one "
      "lamp within "
      "fourteen days, and the bill for the other lamp as soon as it has arrived.\n\nWith "
      "kind "
      "regards,\n"
      "Peter Holm",
      R"(Rename the function fetch_rows to load_rows in this file and print the whole file.

```python
import csv


def fetch_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def total(path, column):
    return sum(float(row[column]) for row in fetch_rows(path))


def names(path):
    return sorted({row["name"] for row in fetch_rows(path)})


def report(path):
    rows = fetch_rows(path)
    print(len(rows), "rows")
    print("total:", total(path, "amount"))
    for name in names(path):
        print("-", name)
```
)",
      R"(Correct the grammar of this paragraph and keep everything else as it is:

My sister and me has lived in this house since ten years. It have three rooms and a small kitchen, and from the window
of the kitchen you can sees the river. In winter the river freeze and the children of the village skates on it. Last
year the ice were so thick that a car could has driven over it. My sister do not like the cold, but she like the light
of the snow. In spring the water rise and sometimes it come up to the door of the house.)",
      R"(Set the field "timeout" to 60 in every service of this document and return the complete document.

```json
{
  "services": [
    {"name": "billing", "host": "10.0.0.4", "port": 7001, "timeout": 30, "retries": 3},
    {"name": "catalog", "host": "10.0.0.5", "port": 7002, "timeout": 15, "retries": 5},
    {"name": "search", "host": "10.0.0.6", "port": 7003, "timeout": 20, "retries": 2},
    {"name": "mail", "host": "10.0.0.7", "port": 7004, "timeout": 45, "retries": 3}
  ],
  "log": {"level": "info", "file": "/var/log/services.log"}
}
```
)",
      R"(Rewrite this report in the third person: write "she" instead of "I" and change the verbs where that is needed.

I arrived at the station at seven and waited for the first train. I had a map, a lamp and bread for two days. At eight
I crossed the bridge and walked along the canal. I met nobody until noon. At the lock I spoke with the keeper, who told
me that the path was flooded behind the mill. I turned back, took the road over the hill and reached the village in the
evening. I wrote this report the next morning.)",
      R"(Add a line "max_connections = 200" to the section [database] of this file and write the file again.

[server]
listen = 0.0.0.0
port = 8443
certificate = /etc/app/server.pem
key = /etc/app/server.key

[database]
host = db1.internal
port = 5432
user = app
name = orders

[cache]
host = cache1.internal
port = 6379
ttl_seconds = 300

[log]
level = warning
file = /var/log/app.log
)",
      R"(Delete the steps that mention the oven from this recipe, number the others anew and print the recipe.

1. Wash the potatoes and cut them into slices.
2. Heat the oven to 200 degrees.
3. Chop two onions and a clove of garlic.
4. Fry the onions and the garlic in butter for five minutes.
5. Put the slices of potato into the pan and add salt and pepper.
6. Pour in half a litre of milk and let it boil once.
7. Put everything into a dish and leave it in the oven for forty minutes.
8. Sprinkle grated cheese over it.
9. Serve it with a green salad.)"}},
    {"summary",
     {"Summarize the following report, quoting its most important sentences:\n\n"
      "The bridge over the river was closed on Monday after inspectors found cracks in two of "
      "its "
      "bearings. "
      "The city expects the repair to take six weeks and to cost about two million. Until "
      "then, "
      "buses take "
      "the road along the northern bank, which adds twelve minutes to the way. Cyclists and "
      "people "
      "on foot "
      "may use the railway bridge, where a lane has been marked. The bearings were last "
      "changed "
      "thirty years "
      "ago. The inspectors had warned two years ago that they would have to be replaced soon, "
      "but "
      "the money "
      "was used for the new tunnel. The mayor said that safety comes first and that the "
      "tunnel had "
      "been "
      "needed as well.",
      "Give the key facts of this text, one a line, in the words of the text:\n\n"
      "Honey bees live in colonies of up to sixty thousand insects. A colony has one queen, "
      "who "
      "lays up to "
      "two thousand eggs a day in early summer. The workers are all female. A worker that "
      "hatches "
      "in summer "
      "lives about six weeks: three in the hive, where she cleans cells, feeds larvae and "
      "builds "
      "combs, and "
      "three outside, where she collects nectar, pollen and water. A worker that hatches in "
      "autumn "
      "lives "
      "until spring, since she neither feeds larvae nor flies much. For one jar of honey the "
      "workers of a "
      "colony fly a distance that equals more than one way around the earth.",
      "What does this announcement say? Answer with its own sentences.\n\n"
      "From the first of March the library opens at nine in the morning and closes at eight "
      "in the "
      "evening. "
      "On Saturdays it opens at ten and closes at four. Books can be borrowed for four weeks, "
      "films for one "
      "week. Whoever returns a book late pays twenty cents a day. The reading room on the "
      "second "
      "floor stays "
      "closed until the end of April, because the windows are being replaced. Children under "
      "the "
      "age of "
      "fourteen do not pay. A new card costs five euros, and the old cards stay valid until "
      "the "
      "end of the "
      "year.",
      R"(Make a list of what was decided and who does it from these notes:

Present: Amir, Beate, Chen, Dana. Amir showed the figures of the second quarter: sales rose by four percent, returns
fell. Beate asked why the shop in the old town sells less; Chen thinks that the road works keep people away. Decided:
Chen writes to the city and asks when the road works end. Dana reported that two suppliers want higher prices. Decided:
Dana asks three other suppliers for offers until the end of the month. The new till is slow in the morning. Decided:
Amir calls the maker of the till. Beate prepares the summer sale, which begins on the first of July. Next meeting in
two weeks.)",
      R"(Copy the three most important sentences of this text, in their order.

Salt was once so valuable that towns grew rich by it. In the hills around the old mine, people have dug for salt for
more than two thousand years. The first miners followed the salt with picks of bronze into tunnels that were hardly
wider than their shoulders. Later the salt was washed out of the rock with water and boiled in large pans. The boiling
needed so much wood that whole forests disappeared. In 1607 a pipeline of hollow trunks was laid, forty kilometres
long, to bring the brine to where there was still wood. Parts of it are in use today. Visitors can ride into the mine
on a small train.)",
      R"(When may guests use the kitchen, and what must they do afterwards? Answer by quoting the house rules.

House rules. The house is quiet from ten in the evening until seven in the morning. Shoes stay in the entrance. Guests
may use the kitchen from seven to nine in the morning and from five to eight in the evening. After cooking, guests wash
what they have used and put it back into the cupboard. Food in the refrigerator carries the name of its owner and the
date. Smoking is allowed in the garden only. The key of the front door is handed back on the day of departure. Whoever
loses it pays forty euros. Bicycles are kept in the shed behind the house.)",
      R"(Summarize this conversation for a colleague who takes over the case:

Customer: My printer prints only half of each page since yesterday.
Support: Which model is it, and how is it connected?
Customer: It is a PX 400, connected by cable.
Support: Did you install an update yesterday?
Customer: Yes, version 2.8 of the driver.
Support: Version 2.8 has a fault with paper of the size A4. Please install version 2.7 again.
Customer: I installed version 2.7. Now it prints whole pages, but the colours are too dark.
Support: Please choose the profile "plain paper" in the settings.
Customer: The profile "plain paper" is not in the list.
Support: I will ask the developers and write to you tomorrow.)",
      R"(Write a short summary of this news item as three bullet points that use its words:

The ferry between the mainland and the island will run every hour from Monday on. So far it has run every two hours.
The company has bought a second ship, the Marie, which carries sixty cars and four hundred people. The Marie was built
in 1998 and was used in the north until last year. A ticket costs six euros as before, a car eighteen. People who live
on the island pay half. The mayor of the island welcomed the second ship, because the island has lost a third of its
people since 1990 and many of those who stay work on the mainland. Farmers had asked for a later ferry in the evening;
the last one still leaves at nine.)",
      R"(Turn this list of changes into two sentences for users, keeping the names of the settings:

- import: files with more than 65,536 rows are read completely
- import: the setting skip_empty ignores rows without values
- export: dates are written as the setting date_format says
- export: fixed a crash when the disk is full
- search: results are sorted by date, and by name where dates are equal
- search: the setting max_results limits how many are shown
- translation: texts in Danish and Finnish were added
- installer: needs 40 MB less)"}},
    {"code repair",
     {"This Python function should return the average of a list, but it fails for an empty list. "
      "Write the "
      "whole file again with the mistake repaired.\n\n```python\ndef average(values):\n    total "
      "= "
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
      "        return self.total / self.steps\n```\n",
      R"(The function find returns the wrong index for some values. Repair it and print the whole file.

```python
def find(values, wanted):
    low = 0
    high = len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle
        else:
            high = middle
    return low


def insert(values, new):
    position = find(values, new)
    values.insert(position, new)
    return values


def contains(values, wanted):
    position = find(values, wanted)
    return position < len(values) and values[position] == wanted


if __name__ == "__main__":
    numbers = [1, 3, 5, 9]
    print(insert(numbers, 4))
    print(contains(numbers, 9))
```
)",
      R"(This C++ program reads behind the end of the vector. Correct it and show the complete program.

```cpp
#include <iostream>
#include <string>
#include <vector>

struct item {
  std::string name;
  int count = 0;
};

int total(const std::vector<item>& items) {
  int sum = 0;
  for (std::size_t i = 0; i <= items.size(); ++i) {
    sum += items[i].count;
  }
  return sum;
}

void print(const std::vector<item>& items) {
  for (const item& i : items) {
    std::cout << i.name << ": " << i.count << "\n";
  }
}

int main() {
  std::vector<item> items = {{"apple", 3}, {"pear", 2}, {"plum", 12}};
  print(items);
  std::cout << "total: " << total(items) << "\n";
}
```
)",
      R"(The function loadAll returns before the files are read, because an await is missing. Return the corrected file.

```javascript
const fs = require("fs/promises");

async function load(path) {
  const text = await fs.readFile(path, "utf8");
  return JSON.parse(text);
}

async function loadAll(paths) {
  const results = [];
  for (const path of paths) {
    results.push(load(path));
  }
  return results;
}

async function main() {
  const all = await loadAll(process.argv.slice(2));
  for (const one of all) {
    console.log(one.name, one.version);
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
```
)",
      R"(This Go function ignores an error. Handle it and print the whole file.

```go
package store

import (
	"encoding/json"
	"os"
)

type Entry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func Load(path string) ([]Entry, error) {
	data, _ := os.ReadFile(path)
	var entries []Entry
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, err
	}
	return entries, nil
}

func Save(path string, entries []Entry) error {
	data, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
```
)",
      R"(The method withdraw lets the balance become negative. Change it so that it throws an exception instead, and write the
whole class.

```java
public class Account {
    private final String owner;
    private long balance;

    public Account(String owner, long balance) {
        this.owner = owner;
        this.balance = balance;
    }

    public void deposit(long amount) {
        if (amount <= 0) {
            throw new IllegalArgumentException("amount must be positive");
        }
        balance += amount;
    }

    public void withdraw(long amount) {
        balance -= amount;
    }

    public long getBalance() {
        return balance;
    }
}
```
)",
      R"(This script fails if a file name has spaces. Add the missing quotes and print the whole script.

```bash
#!/bin/bash
set -e

source_dir=$1
target_dir=$2

if [ ! -d $source_dir ]; then
  echo "no such directory: $source_dir"
  exit 1
fi

mkdir -p $target_dir

for file in $source_dir/*; do
  name=$(basename $file)
  if [ -e $target_dir/$name ]; then
    echo "skipped: $name"
  else
    cp $file $target_dir/$name
    echo "copied: $name"
  fi
done
```
)"}},
    {"prose",
     {"Tell a story about a lighthouse keeper who finds a letter in a bottle.",
      "Explain to a child why the sky is blue and why the evening sky is red.",
      "Describe how a small town prepares for its yearly market.",
      "Write a short speech for the opening of a new school library.",
      "Explain how a letter travels from the sender to the receiver.",
      "Describe a day in the life of a gardener in autumn."}},
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
