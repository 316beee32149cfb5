// Numbers as text. Gives: numbers.

const numbers = {
  // An attention weight; those `below` are known to within `error` only.
  weight(value, { below, error }) {
    if (Number.isNaN(value)) return "not a number";
    if (value === 0 && below) return `< ${(Math.ceil(error * 1e4) / 1e4).toFixed(4)}`;
    if (value < below && error > 0.00006) return `≈ ${value.toFixed(4)}`;
    return value === 0 || value >= 0.00005 ? value.toFixed(4) : "< 0.0001";
  },

  probability(value) {
    if (value === null) return "–";
    const percent = value * 100;
    if (percent < 0.01) return "< 0.01 %";
    return `${percent.toFixed(percent >= 10 && percent < 99.5 ? 1 : 2)} %`;
  },

  // Significant digits, without the noise of an exponent where none is needed.
  plain(value, digits = 5) {
    if (value === null) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e6 || size < 1e-4)) return value.toExponential(digits - 1);
    return String(Number(value.toPrecision(digits)));
  },

  count(value, one, many = `${one}s`) {
    return `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
  },

  seconds(value) {
    return value < 1 ? `${(value * 1000).toPrecision(3)} ms` : `${value.toPrecision(3)} s`;
  },
};
