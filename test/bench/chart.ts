import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { init, type BarSeriesOption, type EChartsOption, type LineSeriesOption } from 'echarts';

import { readable, type Chart } from './harness.ts';

const folder = fileURLToPath(new URL('../../docs/images', import.meta.url));

/** As wide as GitHub shows a page's text, so that it is not scaled down. */
const width = 720;
const font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const ink = { title: '#16202e', text: '#3c4858', quiet: '#6b7787', line: '#e4e8ed', card: '#ffffff' };
/** Ours is in colour, from strong to light; the others are greys. */
const blues = ['#0f6fde', '#6ba7ee', '#aecdf6', '#d3e4fa'];
const greys = ['#77828f', '#a7b0bb', '#c6cdd5', '#dde1e6'];
const dashes: readonly ('solid' | number[])[] = ['solid', [6, 4], [2, 3]];

/** Draws a chart as an SVG on a light card, which is readable on light and on dark pages. */
function drawChart(chart: Chart): string {
  const height = chart.kind === 'bars' ? barsHeight(chart) : 400;
  const canvas = init(null, null, { renderer: 'svg', ssr: true, width, height });
  try {
    canvas.setOption({
      animation: false,
      textStyle: { fontFamily: font },
      graphic: {
        type: 'rect',
        z: -10,
        shape: { x: 0.5, y: 0.5, width: width - 1, height: height - 1, r: 10 },
        style: { fill: ink.card, stroke: ink.line, lineWidth: 1 },
      },
      title: {
        text: chart.title,
        subtext: chart.logarithmic === true ? `${chart.unit}, logarithmic` : chart.unit,
        left: 24,
        top: 18,
        itemGap: 6,
        textStyle: { fontSize: 17, fontWeight: 600, color: ink.title },
        subtextStyle: { fontSize: 13, color: ink.quiet },
      },
      ...(chart.kind === 'bars' ? bars(chart) : lines(chart)),
    });
    return canvas.renderToSVGString();
  } finally {
    canvas.dispose();
  }
}

/** Draws a chart into docs/images and answers with its path, from the workspace's root. */
export async function writeChart(chart: Chart): Promise<string> {
  await mkdir(folder, { recursive: true });
  const name = `performance-${chart.file}.svg`;
  await writeFile(join(folder, name), `${drawChart(chart)}\n`);
  return `docs/images/${name}`;
}

function isOurs(name: string): boolean {
  return name.startsWith('Lapse');
}

function shade(shades: readonly string[], n: number): string {
  return shades[Math.min(n, shades.length - 1)] ?? ink.text;
}

/** A number without zeros at its end. */
function short(value: unknown): string {
  return typeof value === 'number'
    ? readable(value)
        .replace(/(\.\d*?)0+$/, '$1')
        .replace(/\.$/, '')
    : '';
}

const barHeight = 26;

function barsHeight({ labels, series }: Chart): number {
  const groupHeight = series.length * (barHeight + 4) + 18;
  return 84 + labels.length * groupHeight + 22 + (series.length > 1 ? 34 : 0);
}

/** Lying bars, the first on top: their labels are words. Ours are those of our label, or of our series. */
function bars({ labels, series, logarithmic }: Chart): EChartsOption {
  const isLone = series.length === 1;
  return {
    grid: { left: 48, right: 84, top: 84, bottom: isLone ? 22 : 56, containLabel: true },
    ...(isLone ? {} : { legend: legend(series.map(({ name }) => name)) }),
    xAxis: {
      type: logarithmic === true ? 'log' : 'value',
      axisLabel: { show: false },
      splitLine: { show: false },
      axisLine: { show: false },
      axisTick: { show: false },
    },
    yAxis: {
      type: 'category',
      data: [...labels],
      inverse: true,
      axisLine: { lineStyle: { color: ink.line } },
      axisTick: { show: false },
      axisLabel: {
        fontSize: 14,
        color: ink.text,
        margin: 12,
        formatter: (label: string) => (isOurs(label) ? `{ours|${label}}` : label),
        rich: { ours: { fontWeight: 600, color: ink.title, fontSize: 14 } },
      },
    },
    series: series.map(({ name, values }, n): BarSeriesOption => {
      // The bars of a lone series are all as dark; those of several are told apart by it, in the legend too.
      const grey = isLone ? shade(greys, 1) : shade(greys, n);
      return {
        type: 'bar',
        name,
        barWidth: barHeight,
        barGap: '15%',
        itemStyle: { color: isOurs(name) ? shade(blues, 0) : grey, borderRadius: [0, 4, 4, 0] },
        data: values.map((value, k) => {
          const isOne = isOurs(name) || isOurs(labels[k] ?? '');
          return {
            value: value ?? '-',
            ...(isOne ? { itemStyle: { color: shade(blues, isOurs(name) ? 0 : n) } } : {}),
            label: { fontWeight: isOne ? 600 : 400, color: isOne ? shade(blues, 0) : ink.text },
          };
        }),
        label: {
          show: true,
          position: 'right',
          distance: 8,
          fontSize: 14,
          formatter: ({ value }) => short(value),
        },
      };
    }),
  };
}

/** A line for each series, named at its end; our values stand at their points. Where none is ours, all are. */
function lines({ labels, series, logarithmic }: Chart): EChartsOption {
  const isAnyOurs = series.some(({ name }) => isOurs(name));
  const longest = Math.max(...series.map(({ name, values }) => `${name}  ${short(values.at(-1))}`.length));
  // The last points stand half a step before the grid's edge: the names begin there.
  const halfStep = 1 / (2 * labels.length);
  const right = Math.max(24, (40 + longest * 7.8 - (width - 84) * halfStep) / (1 - halfStep));
  let greyCount = 0;
  return {
    grid: { left: 24, right, top: 92, bottom: 28, containLabel: true },
    xAxis: {
      type: 'category',
      data: [...labels],
      axisLine: { lineStyle: { color: '#b9c2cc' } },
      axisTick: { show: false },
      axisLabel: { fontSize: 13, color: ink.text, margin: 12 },
    },
    yAxis: {
      type: logarithmic === true ? 'log' : 'value',
      splitLine: { lineStyle: { color: ink.line } },
      axisLabel: { fontSize: 13, color: ink.quiet, formatter: (value: number) => short(value) },
    },
    series: series.map(({ name, values }, n): LineSeriesOption => {
      const isOne = isOurs(name);
      const isBlue = isOne || !isAnyOurs;
      const color = isBlue ? shade(blues, isOne ? 0 : series.length - 1 - n) : shade(greys, greyCount);
      const dash = isBlue ? 'solid' : (dashes[greyCount % dashes.length] ?? 'solid');
      if (!isBlue) greyCount += 1;
      const last = values.findLastIndex((value) => value !== null);
      return {
        type: 'line',
        name,
        data: values.map((value) => value ?? '-'),
        symbol: 'circle',
        symbolSize: isOne ? 8 : 6,
        z: isOne ? 5 : 2,
        lineStyle: { color, width: isOne ? 3 : 2, type: dash },
        itemStyle: { color },
        label: {
          show: isOne,
          // Away from the line above, where ours is the lowest.
          position: series.every((other) => other.name === name || isAbove(other.values, values))
            ? 'bottom'
            : 'top',
          distance: 8,
          fontSize: 13,
          fontWeight: 600,
          color,
          textBorderColor: ink.card,
          textBorderWidth: 3,
          // The last value stands behind the name.
          formatter: ({ value, dataIndex }) => (dataIndex === last ? '' : short(value)),
        },
        endLabel: {
          show: true,
          distance: 10,
          fontSize: 14,
          fontWeight: isOne ? 600 : 400,
          color: isOne ? color : ink.text,
          formatter: ({ value }) => `${name}  ${short(value)}`,
        },
        // Names make room for each other. Values do not take part: it would count those far to the left, too.
        labelLayout: ({ text }) => (text.startsWith(name) ? { moveOverlap: 'shiftY' } : {}),
      };
    }),
  };
}

/** Whether the last of some values is greater than the last of others. */
function isAbove(upper: readonly (number | null)[], lower: readonly (number | null)[]): boolean {
  return (upper.at(-1) ?? 0) > (lower.at(-1) ?? 0);
}

function legend(names: readonly string[]) {
  return {
    data: [...names],
    left: 20,
    bottom: 16,
    itemWidth: 14,
    itemHeight: 14,
    itemGap: 20,
    selectedMode: false,
    textStyle: { fontSize: 13, color: ink.text },
  };
}
