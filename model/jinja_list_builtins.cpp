// Filters of sequences and mappings.
#include <algorithm>

#include "model/jinja_builtins.hpp"
#include "model/jinja_interpreter.hpp"
#include "model/jinja_strings.hpp"
#include "model/unicode.hpp"

namespace troupe::model::jinja {
namespace {

bool flag(const arguments& args, std::size_t index, std::string_view name) {
  const value* given = args.get(index, name);
  return given != nullptr && given->truthy();
}

// "a.0.b": attributes or items, one after the other; an integer is one item.
result<value> path(interpreter& in, value of, const value& attribute) {
  const text* names = attribute.string();
  if (names == nullptr && !of.is_undefined()) return in.item(of, attribute);
  const std::vector<text> parts = names != nullptr ? split(*names, ".", -1) : std::vector<text>(1);
  for (const text& part : parts) {
    if (of.is_undefined())
      return fail(ec::invalid_argument,
                  "the attribute '" + part.bytes() + "' is of something undefined");
    const std::string& name = part.bytes();
    const bool index =
        !name.empty() && name.size() < 10 && name.find_first_not_of("0123456789") == name.npos;
    TROUPE_TRY(of, in.item(of, index ? value(std::int64_t{std::stoll(name)}) : value(part)));
  }
  return of;
}

result<value> with_attribute(interpreter& in, const value& of, const value* attribute) {
  return attribute == nullptr || attribute->is_none() ? result<value>(of)
                                                      : path(in, of, *attribute);
}

result<value> length(interpreter& in, const value& self, const arguments&) {
  if (self.is_undefined()) return value(std::int64_t{0});
  if (const list* items = self.as_list()) return value::number(items->items.size());
  if (const dict* items = self.as_dict(); items != nullptr && !items->is_namespace)
    return value::number(items->items.size());
  if (const text* string = self.string()) {
    TROUPE_CHECK(in.spend_bytes(string->size()));
    return value::number(count_code_points(string->bytes()));
  }
  return fail(ec::invalid_argument,
              "object of type '" + std::string(self.type_name()) + "' has no length");
}

result<value> first(interpreter& in, const value& self, const arguments&) {
  if (self.string() || self.as_list()) return in.item(self, value(std::int64_t{0}));
  TROUPE_TRY(const auto items, in.iterate(self));
  return items.empty() ? value() : items.front();
}

result<value> last(interpreter& in, const value& self, const arguments&) {
  if (self.string() || self.as_list()) return in.item(self, value(std::int64_t{-1}));
  TROUPE_TRY(const auto items, in.iterate(self));
  return items.empty() ? value() : items.back();
}

result<value> join(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const auto items, in.iterate(self));
  const value* separator = args.get(0, "d");
  TROUPE_TRY(const text between, in.to_text(separator != nullptr ? *separator : value()));
  text made;
  for (std::size_t i = 0; i < items.size(); ++i) {
    TROUPE_TRY(const value of, with_attribute(in, items[i], args.get(1, "attribute")));
    TROUPE_TRY(const text part, in.to_text(of));
    TROUPE_CHECK(in.spend_bytes(part.size() + between.size()));
    if (i > 0) made.append(between);
    made.append(part);
    if (made.size() > in.limits().output_bytes)
      return fail(ec::invalid_argument, "the string is too long");
  }
  return in.make_string(std::move(made));
}

result<value> to_list(interpreter& in, const value& self, const arguments&) {
  TROUPE_TRY(auto items, in.iterate(self));
  return in.make_list(std::move(items));
}

result<value> items_of(interpreter& in, const value& self, const arguments&) {
  const dict* of = self.as_dict();
  if (of == nullptr && !self.is_undefined())
    return fail(ec::invalid_argument, "can only get item pairs from a mapping");
  std::vector<value> pairs;
  if (of != nullptr) {
    for (const auto& [key, held] : of->items) {
      TROUPE_TRY(value pair, in.make_list({key, held}, true));
      pairs.push_back(std::move(pair));
    }
  }
  return in.make_list(std::move(pairs));
}

result<value> reverse(interpreter& in, const value& self, const arguments&) {
  if (self.string()) return slice(in, self, value(), value(), value(std::int64_t{-1}));
  TROUPE_TRY(auto items, in.iterate(self));
  std::ranges::reverse(items);
  return in.make_list(std::move(items));
}

// What order and equality look at: the attribute, in lower case unless case counts.
result<value> sort_key(interpreter& in, const value& of, const value* attribute,
                       bool case_sensitive) {
  TROUPE_TRY(value key, with_attribute(in, of, attribute));
  if (case_sensitive || key.string() == nullptr) return key;
  return in.make_string(lower(*key.string()));
}

struct keyed {
  value key, of;
};

result<std::vector<keyed>> keys_of(interpreter& in, const value& self, const value* attribute,
                                   bool case_sensitive) {
  TROUPE_TRY(const auto items, in.iterate(self));
  std::vector<keyed> made;
  made.reserve(items.size());
  for (const value& one : items) {
    TROUPE_TRY(value key, sort_key(in, one, attribute, case_sensitive));
    made.push_back({std::move(key), one});
  }
  return made;
}

result<void> sort_by_key(interpreter& in, std::vector<keyed>& items, bool descending) {
  result<void> failure;
  std::ranges::stable_sort(items, [&](const keyed& a, const keyed& b) {
    if (!failure) return false;
    const auto sign = descending ? in.order(b.key, a.key) : in.order(a.key, b.key);
    if (!sign) failure = tl::unexpected(sign.error());
    return sign && *sign < 0;
  });
  return failure;
}

result<value> values_of(interpreter& in, std::vector<keyed> items) {
  std::vector<value> made;
  made.reserve(items.size());
  for (keyed& one : items) made.push_back(std::move(one.of));
  return in.make_list(std::move(made));
}

result<value> sort(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(auto items,
             keys_of(in, self, args.get(2, "attribute"), flag(args, 1, "case_sensitive")));
  TROUPE_CHECK(sort_by_key(in, items, flag(args, 0, "reverse")));
  return values_of(in, std::move(items));
}

result<value> dict_sort(interpreter& in, const value& self, const arguments& args) {
  if (self.as_dict() == nullptr) return fail(ec::invalid_argument, "dictsort takes a mapping");
  const value* by = args.get(1, "by");
  const bool by_value =
      by != nullptr && by->string() != nullptr && by->string()->bytes() == "value";
  const value index(std::int64_t{by_value ? 1 : 0});
  TROUPE_TRY(const value pairs, items_of(in, self, {}));
  TROUPE_TRY(auto items, keys_of(in, pairs, &index, flag(args, 0, "case_sensitive")));
  TROUPE_CHECK(sort_by_key(in, items, flag(args, 2, "reverse")));
  return values_of(in, std::move(items));
}

result<value> unique(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(auto items,
             keys_of(in, self, args.get(1, "attribute"), flag(args, 0, "case_sensitive")));
  std::vector<keyed> kept;
  for (keyed& one : items) {
    if (one.key.as_list() || one.key.as_dict())
      return fail(ec::invalid_argument,
                  "unhashable type: '" + std::string(one.key.type_name()) + "'");
    bool known = false;
    for (std::size_t i = 0; i < kept.size() && !known; ++i) {
      TROUPE_TRY(known, in.equal(kept[i].key, one.key));
    }
    if (!known) kept.push_back(std::move(one));
  }
  return values_of(in, std::move(kept));
}

template <bool largest>
result<value> extreme(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const auto items,
             keys_of(in, self, args.get(1, "attribute"), flag(args, 0, "case_sensitive")));
  const keyed* best = nullptr;
  for (const keyed& one : items) {
    if (best != nullptr) {
      TROUPE_TRY(const int sign, in.order(one.key, best->key));
      if (largest ? sign <= 0 : sign >= 0) continue;
    }
    best = &one;
  }
  return best != nullptr ? best->of : value();
}

result<value> sum(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const auto items, in.iterate(self));
  const value* start = args.get(1, "start");
  value total = start != nullptr ? *start : value(std::int64_t{0});
  for (const value& one : items) {
    TROUPE_TRY(const value of, with_attribute(in, one, args.get(0, "attribute")));
    TROUPE_TRY(total, calculate(in, operation::add, total, of));
  }
  return total;
}

result<value> group_by(interpreter& in, const value& self, const arguments& args) {
  const value* attribute = args.get(0, "attribute");
  if (attribute == nullptr) return fail(ec::invalid_argument, "groupby takes an attribute");
  TROUPE_TRY(auto items, keys_of(in, self, attribute, flag(args, 2, "case_sensitive")));
  TROUPE_CHECK(sort_by_key(in, items, false));
  std::vector<value> groups;
  for (std::size_t i = 0; i < items.size();) {
    std::vector<value> members;
    TROUPE_TRY(const value name, with_attribute(in, items[i].of, attribute));
    const std::size_t begin = i;
    for (bool same = true; same && i < items.size();) {
      members.push_back(items[i++].of);
      if (i == items.size()) break;
      TROUPE_TRY(same, in.equal(items[begin].key, items[i].key));
    }
    TROUPE_TRY(value group, in.make_list(std::move(members)));
    TROUPE_TRY(value pair, in.make_list({name, std::move(group)}, true));
    groups.push_back(std::move(pair));
  }
  return in.make_list(std::move(groups));
}

// map and select look at nothing if what they get is false, iterable or not.
result<std::vector<value>> items_if_true(interpreter& in, const value& of) {
  if (!of.truthy()) return std::vector<value>();
  return in.iterate(of);
}

arguments without_first(const arguments& args, std::size_t count) {
  arguments rest = args;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() +
                            static_cast<std::ptrdiff_t>(std::min(count, rest.positional.size())));
  return rest;
}

result<value> map(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const auto items, items_if_true(in, self));
  std::vector<value> made;
  made.reserve(items.size());
  const value* attribute = args.positional.empty() ? args.get(0, "attribute") : nullptr;
  if (attribute != nullptr) {
    const value* fallback = args.get(1, "default");
    for (const value& one : items) {
      TROUPE_TRY(value of, path(in, one, *attribute));
      made.push_back(of.is_undefined() && fallback != nullptr ? *fallback : std::move(of));
    }
    return in.make_list(std::move(made));
  }
  if (args.positional.empty() || args.positional[0].string() == nullptr)
    return fail(ec::invalid_argument, "map takes the name of a filter or an attribute");
  const builtin* filter = find_filter(args.positional[0].string()->bytes());
  if (filter == nullptr)
    return fail(ec::invalid_argument,
                "no filter named '" + args.positional[0].string()->bytes() + "'");
  const arguments rest = without_first(args, 1);
  for (const value& one : items) {
    TROUPE_TRY(value of, in.apply(*filter, one, rest));
    made.push_back(std::move(of));
  }
  return in.make_list(std::move(made));
}

// select, reject, selectattr, rejectattr: by a test, or by truth.
template <bool keep, bool by_attribute>
result<value> select(interpreter& in, const value& self, const arguments& args) {
  constexpr std::size_t name_at = by_attribute ? 1 : 0;
  if (by_attribute && args.positional.empty())
    return fail(ec::invalid_argument, "the name of an attribute is missing");
  const builtin* test = nullptr;
  if (args.positional.size() > name_at) {
    const text* name = args.positional[name_at].string();
    test = name != nullptr ? find_test(name->bytes()) : nullptr;
    if (test == nullptr)
      return fail(ec::invalid_argument,
                  "no test named '" + (name != nullptr ? name->bytes() : std::string()) + "'");
  }
  const arguments rest = without_first(args, name_at + 1);
  TROUPE_TRY(const auto items, items_if_true(in, self));
  std::vector<value> made;
  for (const value& one : items) {
    TROUPE_TRY(const value of,
               with_attribute(in, one, by_attribute ? &args.positional[0] : nullptr));
    bool holds = of.truthy();
    if (test != nullptr) {
      TROUPE_TRY(const value answer, in.apply(*test, of, rest));
      holds = answer.truthy();
    }
    if (holds == keep) made.push_back(one);
  }
  return in.make_list(std::move(made));
}

result<value> attribute_of(interpreter& in, const value& self, const arguments& args) {
  const value* name = args.get(0, "name");
  if (name == nullptr || name->string() == nullptr)
    return fail(ec::invalid_argument, "attr takes a name");
  return in.attribute(self, name->string()->bytes());
}

}  // namespace

std::span<const builtin> list_filters() {
  static const std::vector<builtin> table = {
      {"length", length},
      {"count", length},
      {"first", first},
      {"last", last},
      {"join", join, {"d", "attribute"}},
      {"list", to_list},
      {"items", items_of},
      {"reverse", reverse},
      {"sort", sort, {"reverse", "case_sensitive", "attribute"}},
      {"dictsort", dict_sort, {"case_sensitive", "by", "reverse"}},
      {"unique", unique, {"case_sensitive", "attribute"}},
      {"min", extreme<false>, {"case_sensitive", "attribute"}},
      {"max", extreme<true>, {"case_sensitive", "attribute"}},
      {"sum", sum, {"attribute", "start"}},
      {"groupby", group_by, {"attribute", "default", "case_sensitive"}},
      {"map", map, {}, true},
      {"select", select<true, false>, {}, true},
      {"reject", select<false, false>, {}, true},
      {"selectattr", select<true, true>, {}, true},
      {"rejectattr", select<false, true>, {}, true},
      {"attr", attribute_of, {"name"}},
  };
  return table;
}

}  // namespace troupe::model::jinja
